"""Training through Lightning; knows nothing of Dagster."""
