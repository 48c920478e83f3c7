"""The built-in synthetic dataset: a procedural hand, articulated objects and cameras, written in ARCTIC's raw layout.

Reading that layout belongs in `sources`; conversion to shards belongs in `conversion`.
"""
