"""Generator of the objects and the body of the sample, which the package reads from a file."""
