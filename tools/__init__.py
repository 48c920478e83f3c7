"""Generators of arrays that the package holds as files. Not installed with the package."""
