"""Mapping tasks over local processes or a Ray cluster.

The functions that are mapped belong to the rooms that define the tasks.
"""
