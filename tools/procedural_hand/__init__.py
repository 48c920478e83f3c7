"""The generator of the sample's hand: from a skeleton over an implicit surface to MANO's arrays."""
