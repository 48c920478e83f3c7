"""Entry point of Dagster: `dagster dev`, `dagster job execute -m hawor_pipeline.definitions`."""

from hawor_pipeline.orchestration.build import build_defs

defs = build_defs()
