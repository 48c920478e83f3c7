"""The only Dagster of the project: it says when things run, never how they are computed."""
