"""The shards of all subjects as one dataset: manifest, splits and data card; quality."""

import json

import dagster as dg

from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.materialization import image_metadata, log_and_publish, stage_metadata
from hawor_pipeline.orchestration.resources import Handoff, RawData
from hawor_pipeline.orchestration.stage_asset import PASSES_VALUE, stage_asset
from hawor_pipeline.orchestration.table_checks import table_metadata
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult
from hawor_pipeline.versions import METADATA_VERSION, QUALITY_VERSION


@stage_asset(
    METADATA_VERSION,
    kinds={"json", "markdown"},
    deps=["subject_shards"],
    blocking={
        "train_and_validation_are_there": "At least one training and one validation subject have valid rows.",
        "one_source_only": "A dataset holds synthetic or real rows, never both.",
    },
    **PASSES_VALUE,
)
def dataset_metadata(context: dg.AssetExecutionContext, raw: RawData) -> dg.MaterializeResult:
    """Manifest of all shards with row counts and hashes, splits and protocols, data card, dataset version."""
    from hawor_pipeline.shards.dataset_metadata import build_metadata

    where, paths = raw.locate(), DataPaths.default()
    result = build_metadata(paths.shards(where.source), where.arctic_root, paths.metadata(where.source))
    log_and_publish(context.log, "dataset_metadata", result)
    missing, sources = result.info["missing_splits"], result.info["sources"]
    return dg.MaterializeResult(
        value=_dataset(result, str(paths.shards(where.source)), where.source),
        data_version=dg.DataVersion(result.info["dataset_version"]),
        metadata=stage_metadata(result, data_card=dg.MetadataValue.md((result.path / "data_card.md").read_text())),
        check_results=[
            checked("train_and_validation_are_there", not missing, missing=missing),
            checked("one_source_only", sources == [where.source], found=sources, expected=where.source),
        ],
    )


def _dataset(result: StageResult, shards: str, source: str) -> Handoff:
    """The value that training and evaluation load."""
    manifest = json.loads((result.path / "manifest.json").read_text())
    return {
        "path": str(result.path),
        "shards": shards,
        "source": source,
        "dataset_version": result.info["dataset_version"],
        "splits": manifest["splits"],
    }


@stage_asset(
    QUALITY_VERSION,
    kinds={"parquet", "matplotlib"},
    deps=["subject_shards"],
    blocking={"quality_is_measured": "Every quality number is finite."},
)
def quality_stats(context: dg.AssetExecutionContext, raw: RawData) -> dg.MaterializeResult:
    """Occlusion, truncation, confidence, blur, fitting error; coverage of pose, depth and view: tables and plots."""
    from hawor_pipeline.shards.quality import build_quality

    where, paths = raw.locate(), DataPaths.default()
    result = build_quality(paths.shards(where.source), paths.quality(where.source))
    log_and_publish(context.log, "quality_stats", result)
    plots = {file.stem: image_metadata(file) for file in sorted(result.path.glob("*.png"))}
    unmeasured = [name for name, value in result.info.items() if value is None or value != value]  # NaN is no number
    return dg.MaterializeResult(
        data_version=dg.DataVersion(result.key),
        metadata=stage_metadata(result, **plots, **table_metadata([result.path / "distributions.parquet"])),
        check_results=[checked("quality_is_measured", not unmeasured, unmeasured=unmeasured)],
    )
