"""Everything of Dagster: assets, resources, checks, jobs, schedules and sensors.

An asset loads its inputs, calls one function of another room and returns metadata; computation belongs in that room.
"""

import warnings

import dagster as dg

# `backfill_policy` is what makes one run cover a range of partitions; Dagster is pinned and the behaviour is tested.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
