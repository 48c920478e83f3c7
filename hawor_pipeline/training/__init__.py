"""Training with Lightning: module, callbacks, loggers and runs on disk; imports no Dagster.

The network belongs in `models`; reading shards belongs in `loading`.
"""
