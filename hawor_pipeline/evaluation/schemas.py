"""The published schema of every metric table: name, unit and meaning of each column.

No torch here: the web UI and the report import this module.
"""

import pyarrow as pa

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.shards.columns import Column


def _column(name: str, kind: pa.DataType, unit: str, meaning: str, *shape: int, nullable: bool = False) -> Column:
    return Column(name, kind, shape, unit, meaning, nullable, nested=True)


def _text(name: str, meaning: str, *, nullable: bool = False) -> Column:
    return _column(name, pa.string(), "", meaning, nullable=nullable)


def _count(name: str, meaning: str) -> Column:
    return _column(name, pa.int64(), "", meaning)


def _number(name: str, meaning: str, unit: str = "", *, nullable: bool = True) -> Column:
    return _column(name, pa.float64(), unit, meaning, nullable=nullable)


_FLOAT = pa.float32()
_IDENTITY = (
    _text("protocol", "evaluation protocol: which views and subjects, which conventions"),
    _text("dataset_version", "version of the shards, from their manifest"),
    _text("source", "arctic, or synthetic for the built-in sample"),
    _text("checkpoint_sha256", "the checkpoint; null for baselines, which have none", nullable=True),
)
_SAMPLE_ID = _text("sample_id", "subject/sequence/view/frame/side")
_STRATA = (
    _text("subject", "subject"),
    _text("sequence", "recording"),
    _text("object", "object in the hands"),
    _text("action", "what is done with it"),
    _column("view", pa.int32(), "", "camera: 0 is on the head, 1 to 8 stand in the room"),
    _text("side", "left or right hand"),
    _column("frame", pa.int32(), "", "number in the image's file name"),
    _column("occlusion", _FLOAT, "1", "share of the hand that something hides", nullable=True),
    _column("truncation", _FLOAT, "1", "share of the hand outside the image", nullable=True),
    _column("depth_m", _FLOAT, "m", "true distance of the wrist from the camera plane"),
    _column("speed_m_s", _FLOAT, "m/s", "true mean joint speed since the frame before, camera frame", nullable=True),
    _column("box_size_px", _FLOAT, "px", "side of the hand box in the full frame"),
)
_MEAN = (
    _text("metric", "name as in the samples table"),
    _text("unit", "unit of value and interval"),
    _number("value", "the mean; null where nothing could be measured"),
    _number("ci_low", "lower end of the 95 % interval; null below 5 sequences"),
    _number("ci_high", "upper end of the 95 % interval; null below 5 sequences"),
)
_MEAN_OF = (
    _count("sequences", "number of sequences that they come from"),
    _text("note", "why there is a value but no interval", nullable=True),
    *_IDENTITY,
)
# Columns of a shard that the strata which are measured depend on; those of metrics stand in their declarations.
_STRATA_MADE_FROM = {"depth_m": ("joints_cam_m",), "speed_m_s": ("joints_cam_m",)}

SCHEMAS: dict[str, tuple[Column, ...]] = {
    "predictions": (
        _SAMPLE_ID,
        _column("rotmats", _FLOAT, "1", "absolute rotations in MANO's joint order, true side", 16, 3, 3, nullable=True),
        _column(
            "betas", _FLOAT, "1", "shape of the right-hand model; a left hand is its mirror image", 10, nullable=True
        ),
        _column("translation_m", _FLOAT, "m", "translation in the camera frame, true side", 3, nullable=True),
        _column(
            "joints_cam_m",
            _FLOAT,
            "m",
            "joints in OpenPose order, camera frame, true side; relative to the wrist where translation_m is null",
            21,
            3,
        ),
        _column("joints_px", _FLOAT, "px", "joints in the full frame with the camera's lens", 21, 2, nullable=True),
        *_IDENTITY,
    ),
    "samples": (
        _SAMPLE_ID,
        *_STRATA,
        *(_number(metric.name, metric.meaning, metric.unit) for metric in SAMPLE_METRICS.values()),
        *_IDENTITY,
    ),
    "joints": (
        _SAMPLE_ID,
        _text("joint", "joint in OpenPose naming"),
        _column("error_mm", _FLOAT, "mm", "wrist-aligned distance"),
        _column("error_px", _FLOAT, "px", "distance in the full frame", nullable=True),
        _column("visible", pa.bool_(), "", "nothing hides the joint and it is inside the image"),
        *_IDENTITY,
    ),
    "comparison": (
        _text("other_run_id", "the run that this one is compared with, sample by sample"),
        _text("metric", "name as in the samples table"),
        _text("unit", "unit of values and interval"),
        _number("value", "mean of this run over the samples that both have"),
        _number("other_value", "mean of the other run over the same samples"),
        _number("difference", "value minus other_value"),
        _number("ci_low", "lower end of the 95 % interval of the difference"),
        _number("ci_high", "upper end of the 95 % interval of the difference"),
        _count("n", "number of samples that both have"),
        _count("sequences", "number of sequences that they come from"),
        _column("worse", pa.bool_(), "", "the run is worse beyond the interval (by sign where there is none)"),
        _text("note", "why there is no difference or no interval", nullable=True),
        *_IDENTITY,
    ),
    "robustness": (
        _text("kind", "change of boxes or crops; `none` is the reference"),
        _number("level", "its size, in the unit of level_unit; 0 for `none`", nullable=False),
        _text("level_unit", "unit of the level"),
        _text("side", "left, right, or all"),
        *_MEAN,
        _count("n", "number of samples that the mean has"),
        *_MEAN_OF,
    ),
    "summary": (
        _text("stratum", "`all`, or column=value of the rows that count"),
        _text("level", "what has equal weight in the mean: sample, joint or sequence"),
        *_MEAN,
        _count("n", "number of samples, joints or sequences that the mean has"),
        *_MEAN_OF,
    ),
    "training": (
        _count("step", "optimiser step"),
        _count("epoch", "epoch"),
        _text("split", "train or val"),
        _text("metric", "name of a loss term, weight, norm, rate or metric"),
        _number("value", "its value; null where it was not finite"),
        *_IDENTITY,
    ),
}


def arrow_schema(table: str) -> pa.Schema:
    """Return the Arrow schema of a table; unit and meaning travel in the field metadata of the file."""
    return pa.schema([column.field for column in columns_of(table)])


def column_docs(table: str) -> list[tuple[str, str, str, str]]:
    """Return (name, type, unit, meaning) of each column, the partition column `run_id` first."""
    run_id = ("run_id", "string", "", "the run, from the path; begins with a letter")
    return [run_id, *((c.name, _type_name(c), c.unit, c.meaning) for c in columns_of(table))]


def _type_name(column: Column) -> str:
    """Lists of fixed size as "float[16,3,3]"."""
    return f"{column.kind}[{','.join(map(str, column.shape))}]" if column.shape else str(column.kind)


def columns_of(table: str) -> tuple[Column, ...]:
    """Return the columns of a table.

    Raises:
        ConfigError: there is no such table.
    """
    if table not in SCHEMAS:
        raise ConfigError(f"unknown metric table {table!r}; there are {', '.join(SCHEMAS)}.")
    return SCHEMAS[table]


def made_from(column: str) -> tuple[str, ...]:
    """Return the columns of a shard that a column of the samples table depends on; () for those from elsewhere."""
    metric = SAMPLE_METRICS.get(column)
    return metric.made_from if metric else _STRATA_MADE_FROM.get(column, ())
