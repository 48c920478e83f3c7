"""The only Dagster of the project: it says when things run, never how they are computed."""

import warnings

import dagster as dg

# `backfill_policy` is what makes one run cover a range of partitions; Dagster is pinned and the behaviour is tested.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
