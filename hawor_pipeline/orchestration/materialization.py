"""From a stage's result to what Dagster shows and keeps of it: metadata, log lines, the copy on object storage."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult
from hawor_pipeline.remote import publish_folder, remote_url

NOT_PUBLISHED = ("sample", "handoff")  # regenerated where missing, and of one machine only
_IMAGE_WIDTH_PX = 760
_IMAGE_BYTES = 90_000  # inline images are stored in the event log; keep each below about 100 kB
_TABLE_ROWS = 60
Metadata = dict[str, Any]  # names to values that Dagster shows


def stage_metadata(result: StageResult, **more: Any) -> Metadata:
    """Build the metadata of a stage: `more` first, then its flat numbers, then whether it was reused and why.

    A key of `more` takes precedence over the same key of `result.info`; None removes it.
    """
    metadata: Metadata = {}
    for name, value in {**more, **{k: v for k, v in result.info.items() if k not in more}}.items():
        shown = None if value is None else _metadata_value(value)
        if shown is not None:
            metadata[name] = shown
    metadata |= {
        "reused": result.reused,
        "why": result.why,
        "path": dg.MetadataValue.path(str(result.path)),
        "key": result.key,
    }
    return metadata


def log_and_publish(log: Any, name: str, results: Mapping[str, StageResult] | StageResult) -> None:
    """Log whether results were made or reused, and upload them where `$HAWOR_REMOTE_URL` is set.

    Raises:
        ConfigError: the storage cannot be reached. The local result is complete and is reused by the next run.
    """
    if isinstance(results, StageResult):
        log.info(f"{name}: {'reused' if results.reused else 'made'} ({results.why})")
        results = {"": results}
    else:
        made = [result for result in results.values() if not result.reused]
        reasons = f"; the others made ({'; '.join(sorted({result.why for result in made}))})" if made else ""
        log.info(f"{name}: {len(results) - len(made)} of {len(results)} reused{reasons}")
    for result in results.values():
        for folder in _published_folders(result):
            if (url := remote_url(folder)) is None:
                return
            done = publish_folder(folder, url)
            if done.uploaded:
                size = f"{done.uploaded_bytes / 1e6:.1f} MB"
                log.info(f"published {done.url}: {done.uploaded} of {done.files} files, {size}")


def _published_folders(result: StageResult) -> list[Path]:
    """List the folders of a result: its own, or of the shared metric tables only the parts of its runs."""
    paths = DataPaths.default()
    if result.path == paths.metrics:
        several = result.info.get("run_ids")  # of baselines: kind to run
        runs = several.values() if several else [result.info["run_id"]]
        return [folder for run in runs for folder in sorted(paths.metrics.glob(f"*/run_id={run}"))]
    folder = result.path if result.path.is_dir() else result.path.parent
    return [] if folder.relative_to(paths.root).parts[0] in NOT_PUBLISHED else [folder]


def _metadata_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "not available"  # the event log stores neither NaN nor infinity
    if isinstance(value, (bool, int, float, str, dg.MetadataValue, dg.TableSchema, dg.TableColumnLineage)):
        return value
    if isinstance(value, Path):
        return dg.MetadataValue.path(str(value))
    if isinstance(value, Mapping):
        return dg.MetadataValue.json(dict(value))
    if isinstance(value, Sequence) and value and all(isinstance(row, Mapping) for row in value):
        return table_metadata_value(value)
    return dg.MetadataValue.json(list(value)) if isinstance(value, Sequence) and value else None


def table_metadata_value(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Show rows of plain values as a table; missing and non-finite values are empty cells."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: _column_type([row.get(name) for row in rows]) for name in columns}
    records = [
        dg.TableRecord({name: _cell(row.get(name), kinds[name]) for name in columns}) for row in rows[:_TABLE_ROWS]
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(name, kinds[name]) for name in columns])
    return dg.MetadataValue.table(records=records, schema=schema)


def _column_type(values: list[Any]) -> str:
    present = [value for value in values if value is not None]
    numbers = present and not any(isinstance(value, bool) for value in present)  # a bool is an int, too
    if present and all(isinstance(value, bool) for value in present):
        return "bool"
    if numbers and all(isinstance(value, int) for value in present):
        return "int"
    return "float" if numbers and all(isinstance(value, (int, float)) for value in present) else "string"


def _cell(value: Any, kind: str) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if kind == "float":
        return round(float(value), 4)
    return value if kind in ("int", "bool") else str(value)


def image_metadata(path: Path) -> dg.MarkdownMetadataValue:
    """Show an image file as inline Markdown, scaled down to a size that the event log can store."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise dg.Failure(f"image {path} cannot be read")
    scale = min(1.0, _IMAGE_WIDTH_PX / image.shape[1])
    if scale < 1.0:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for quality in (88, 75, 60, 45, 30):
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(encoded) <= _IMAGE_BYTES:
            break
    text = base64.b64encode(encoded.tobytes()).decode()
    return dg.MetadataValue.md(f"![{path.stem}](data:image/jpeg;base64,{text})")
