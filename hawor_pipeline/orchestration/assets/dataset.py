"""What the shards hold as a whole: manifest, splits and data card; quality."""

import json
from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.materialization import announce, describe, image
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.orchestration.table_checks import table_metadata
from hawor_pipeline.paths import DataPaths


@dg.asset(
    group_name="hand_mesh",
    kinds={"json", "markdown"},
    owners=["team:hand-mesh"],
    deps=["subject_shards"],
    io_manager_key="json_io_manager",
    dagster_type=dg.Any,
    retry_policy=RETRY_POLICY,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "train_and_validation_are_there",
            asset="dataset_metadata",
            blocking=True,
            description="At least one training and one validation subject have valid rows.",
        ),
        dg.AssetCheckSpec(
            "one_source_only",
            asset="dataset_metadata",
            blocking=True,
            description="Synthetic and real rows are never in one dataset.",
        ),
    ],
)
@clear_failures
def dataset_metadata(context: dg.AssetExecutionContext, raw: RawData) -> dg.MaterializeResult:
    """Manifest over all shards with row counts and hashes, splits and protocols, data card, dataset version."""
    from hawor_pipeline.shards.dataset_metadata import build_metadata

    where, paths = raw.locate(), DataPaths.default()
    result = build_metadata(paths.shards(where.source), where.arctic_root, paths.metadata(where.source))
    announce(context.log, "dataset_metadata", result)
    info = result.info
    value: dict[str, Any] = {
        "path": str(result.path),
        "shards": str(paths.shards(where.source)),
        "source": where.source,
        "dataset_version": info["dataset_version"],
        "splits": json.loads((result.path / "manifest.json").read_text())["splits"],
    }
    return dg.MaterializeResult(
        value=value,
        data_version=dg.DataVersion(info["dataset_version"]),
        metadata=describe(result, data_card=dg.MetadataValue.md((result.path / "data_card.md").read_text())),
        check_results=[
            checked("train_and_validation_are_there", not info["missing_splits"], missing=info["missing_splits"]),
            checked("one_source_only", info["sources"] == [where.source], found=info["sources"], expected=where.source),
        ],
    )


@dg.asset(
    group_name="hand_mesh",
    kinds={"parquet", "matplotlib"},
    owners=["team:hand-mesh"],
    deps=["subject_shards"],
    retry_policy=RETRY_POLICY,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "quality_is_measured",
            asset="quality_stats",
            blocking=True,
            description="Every quality number is finite.",
        )
    ],
)
@clear_failures
def quality_stats(context: dg.AssetExecutionContext, raw: RawData) -> dg.MaterializeResult:
    """Occlusion, truncation, confidence, blur, fitting error; coverage of pose, depth and view: tables and plots."""
    from hawor_pipeline.shards.quality import build_quality

    where, paths = raw.locate(), DataPaths.default()
    result = build_quality(paths.shards(where.source), paths.quality(where.source))
    announce(context.log, "quality_stats", result)
    plots = {file.stem: image(file) for file in sorted(result.path.glob("*.png"))}
    unmeasured = [name for name, value in result.info.items() if value is None or value != value]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(result.key),
        metadata=describe(result, **plots, **table_metadata([result.path / "distributions.parquet"])),
        check_results=[
            checked("quality_is_measured", not unmeasured, unmeasured=unmeasured),
        ],
    )
