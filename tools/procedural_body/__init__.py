"""Generator of the pose correctives of the sample's body, which the package reads from a file."""
