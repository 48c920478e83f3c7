"""How a stage's result looks in the UI: numbers that plot, tables, inline pictures, links."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.publishing import publish_result
from hawor_pipeline.provenance import StageResult

_IMAGE_WIDTH_PX = 760
_IMAGE_BYTES = 90_000  # inline pictures live in the event log; keep each below about 100 kB
_TABLE_ROWS = 60


def describe(result: StageResult, **more: Any) -> dict[str, Any]:
    """Metadata of a stage: what the caller adds first, then its flat numbers, then whether it was reused and why."""
    metadata: dict[str, Any] = {}
    for name, value in {**more, **{k: v for k, v in result.info.items() if k not in more}}.items():
        shown = None if value is None else _shown(value)
        if shown is not None:
            metadata[name] = shown
    metadata |= {
        "reused": result.reused,
        "why": result.why,
        "path": dg.MetadataValue.path(str(result.path)),
        "key": result.key,
    }
    return metadata


def announce(log: Any, name: str, results: Mapping[str, StageResult] | StageResult) -> None:
    """Tell the others: a line in the run's log, and the folders on object storage where one is set."""
    _say(log, name, results)
    for result in [results] if isinstance(results, StageResult) else results.values():
        publish_result(log, result)


def _say(log: Any, name: str, results: Mapping[str, StageResult] | StageResult) -> None:
    if isinstance(results, StageResult):
        log.info(f"{name}: {'reused' if results.reused else 'made'} ({results.why})")
        return
    made = {subject: result for subject, result in results.items() if not result.reused}
    reasons = sorted({result.why for result in made.values()})
    kept = len(results) - len(made)
    log.info(f"{name}: {kept} of {len(results)} reused" + (f"; the others made ({'; '.join(reasons)})" if made else ""))


def _shown(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "not available"
    if isinstance(value, (bool, int, float, str, dg.MetadataValue, dg.TableSchema, dg.TableColumnLineage)):
        return value
    if isinstance(value, Path):
        return dg.MetadataValue.path(str(value))
    if isinstance(value, Mapping):
        return dg.MetadataValue.json(dict(value))
    if isinstance(value, Sequence) and value and all(isinstance(row, Mapping) for row in value):
        return table(value)
    return dg.MetadataValue.json(list(value)) if isinstance(value, Sequence) and value else None


def table(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Rows of plain values as a table; missing and non-finite values show as empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: _kind([row.get(name) for row in rows]) for name in columns}
    records = [
        dg.TableRecord({name: _cell(row.get(name), kinds[name]) for name in columns}) for row in rows[:_TABLE_ROWS]
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(name, kinds[name]) for name in columns])
    return dg.MetadataValue.table(records=records, schema=schema)


def _kind(values: list[Any]) -> str:
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, bool) for value in present):
        return "bool"
    if present and all(isinstance(value, int) and not isinstance(value, bool) for value in present):
        return "int"
    if present and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present):
        return "float"
    return "string"


def _cell(value: Any, kind: str) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if kind == "float":
        return round(float(value), 4)
    return value if kind in ("int", "bool") else str(value)


def image(path: Path) -> dg.MarkdownMetadataValue:
    """A picture file as inline Markdown, scaled down to what the event log can carry."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise dg.Failure(f"picture {path} cannot be read")
    scale = min(1.0, _IMAGE_WIDTH_PX / image.shape[1])
    if scale < 1.0:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for quality in (88, 75, 60, 45, 30):
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(encoded) <= _IMAGE_BYTES:
            break
    text = base64.b64encode(encoded.tobytes()).decode()
    return dg.MetadataValue.md(f"![{path.stem}](data:image/jpeg;base64,{text})")
