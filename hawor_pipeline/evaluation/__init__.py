"""Metric tables of a checkpoint: predictions on shards first, everything else computed from them.

Protocols, baselines, comparisons and the promotion gate belong here. Images of results belong in `inspection`; page
layout belongs in `reporting`.
"""
