"""The published schema of every metric table: what each column and each metric is called, its unit and its meaning.

No torch here: the web UI and the report import this module.
"""

from dataclasses import dataclass

import pyarrow as pa

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.shards.columns import Column

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """What one number of an evaluation means; `better` is "lower", "higher" or "" (neither)."""

    unit: str
    better: str
    meaning: str


# One entry per number of a sample; the samples table has a column for each, the summary table a row.
SAMPLE_METRICS: dict[str, Metric] = {
    "mpjpe_mm": Metric("mm", "lower", "mean distance of the 21 joints after both wrists are put on each other"),
    "pa_mpjpe_mm": Metric("mm", "lower", "mean joint distance after the best similarity transform (no reflection)"),
    "mpvpe_mm": Metric("mm", "lower", "mean distance of the 778 vertices, wrists put on each other"),
    "pa_mpvpe_mm": Metric("mm", "lower", "mean vertex distance after the best similarity transform"),
    "mpjpe_camera_mm": Metric("mm", "lower", "mean joint distance in the camera frame, without any alignment"),
    "mpjpe_visible_mm": Metric("mm", "lower", "wrist-aligned distance over the joints that can be seen"),
    "mpjpe_hidden_mm": Metric("mm", "lower", "wrist-aligned distance over the joints that are hidden"),
    "mpjpe_px": Metric("px", "lower", "mean distance of the joints inside the picture, full frame, lens included"),
    "mpjpe_crop_px": Metric("px", "lower", "the same in the 256 px network crop"),
    "f_score_5mm": Metric("1", "higher", "F-score of the wrist-aligned surfaces at 5 mm"),
    "f_score_15mm": Metric("1", "higher", "F-score of the wrist-aligned surfaces at 15 mm"),
    "pa_f_score_5mm": Metric("1", "higher", "F-score of the Procrustes-aligned surfaces at 5 mm"),
    "pa_f_score_15mm": Metric("1", "higher", "F-score of the Procrustes-aligned surfaces at 15 mm"),
    "chamfer_mm": Metric("mm", "lower", "sum of the two mean nearest distances of the wrist-aligned vertices"),
    "pose_error_deg": Metric("deg", "lower", "mean angle between predicted and true rotation of the 15 finger joints"),
    "global_orient_error_deg": Metric("deg", "lower", "angle between predicted and true rotation of the wrist"),
    "betas_error": Metric(
        "1", "lower", "root of the summed squared differences of the 10 shape parameters, both as a right hand"
    ),
    "shape_error_mm": Metric("mm", "lower", "mean distance of the two unposed surfaces"),
    "translation_error_mm": Metric("mm", "lower", "distance of predicted and true translation in the camera frame"),
    "accel_error_m_s2": Metric("m/s^2", "lower", "difference of wrist-relative joint acceleration over three frames"),
    "box_iou": Metric("1", "higher", "overlap of the boxes around the predicted and the true projected joints"),
    "detected": Metric("1", "higher", "1 where the side is right and box_iou is at least 0.5, else 0"),
    "pck_3d_5mm": Metric("1", "higher", "share of wrist-aligned joints within 5 mm"),
    "pck_3d_10mm": Metric("1", "higher", "share of wrist-aligned joints within 10 mm"),
    "pck_3d_15mm": Metric("1", "higher", "share of wrist-aligned joints within 15 mm"),
    "pck_3d_20mm": Metric("1", "higher", "share of wrist-aligned joints within 20 mm"),
    "pck_2d_5px": Metric("1", "higher", "share of joints in the picture within 5 px in the 256 px crop"),
    "pck_2d_10px": Metric("1", "higher", "share of joints in the picture within 10 px in the 256 px crop"),
    "pck_2d_15px": Metric("1", "higher", "share of joints in the picture within 15 px in the 256 px crop"),
    "pck_auc": Metric("1", "higher", "area under the curve of wrist-aligned PCK from 0 to 50 mm, divided by 50 mm"),
    "pa_pck_auc": Metric("1", "higher", "the same after the best similarity transform"),
    "st_mpjpe_mm": Metric(
        "mm",
        "lower",
        "mean joint distance, wrists put on each other and the bone to the middle knuckle scaled",
    ),
    "pck_box_5pct": Metric("1", "higher", "share of joints in the picture within 5 % of the tight box around the hand"),
    "pck_box_10pct": Metric("1", "higher", "share of joints in the picture within 10 % of the tight box"),
    "pck_box_15pct": Metric("1", "higher", "share of joints in the picture within 15 % of the tight box"),
    "w_mpjpe_mm": Metric(
        "mm", "lower", "mean joint distance in the world; chunks of 100 frames, fitted to their first two frames"
    ),
    "wa_mpjpe_mm": Metric("mm", "lower", "mean joint distance in the world; chunks of 100 frames, fitted as a whole"),
    "rte": Metric("1", "lower", "error of the wrist's path in the world after rigid alignment, over the path's length"),
}
# Numbers that belong to more than one sample: only the summary has them.
SUMMARY_METRICS: dict[str, Metric] = {
    "jitter": Metric("m/s^3", "", "size of the third derivative of predicted wrist-relative joints; needs no truth"),
    "mrrpe_mm": Metric("mm", "lower", "error of the vector from right to left wrist, where one picture has both hands"),
    "occlusion_robustness": Metric(
        "1", "lower", "mpjpe_mm at occlusion above 0.5 over mpjpe_mm at occlusion below 0.1"
    ),
}
ALL_METRICS = SAMPLE_METRICS | SUMMARY_METRICS


def _column(
    name: str, kind: pa.DataType, unit: str, meaning: str, *, nullable: bool = False, shape: Shape = ()
) -> Column:
    return Column(name, kind, shape, unit, meaning, nullable, nested=True)


_IDENTITY = (
    _column("protocol", pa.string(), "", "evaluation protocol: which views and subjects, which conventions"),
    _column("dataset_version", pa.string(), "", "version of the shards, from their manifest"),
    _column("source", pa.string(), "", "arctic, or synthetic for the built-in sample"),
    _column("checkpoint_sha256", pa.string(), "", "the checkpoint; null for baselines, which have none", nullable=True),
)
_SAMPLE_ID = _column("sample_id", pa.string(), "", "subject/sequence/view/frame/side")
_STRATA = (
    _column("subject", pa.string(), "", "subject"),
    _column("sequence", pa.string(), "", "recording"),
    _column("object", pa.string(), "", "object in the hands"),
    _column("action", pa.string(), "", "what is done with it"),
    _column("view", pa.int32(), "", "camera: 0 is on the head, 1 to 8 stand in the room"),
    _column("side", pa.string(), "", "left or right hand"),
    _column("frame", pa.int32(), "", "number in the picture's file name"),
    _column("occlusion", pa.float32(), "1", "share of the hand that something hides", nullable=True),
    _column("truncation", pa.float32(), "1", "share of the hand outside the picture", nullable=True),
    _column("depth_m", pa.float32(), "m", "true distance of the wrist from the camera plane"),
    _column(
        "speed_m_s", pa.float32(), "m/s", "true mean joint speed since the frame before, camera frame", nullable=True
    ),
    _column("box_size_px", pa.float32(), "px", "side of the hand box in the full frame"),
)

SCHEMAS: dict[str, tuple[Column, ...]] = {
    "predictions": (
        _SAMPLE_ID,
        _column(
            "rotmats",
            pa.float32(),
            "1",
            "absolute rotations in MANO's joint order, true side",
            nullable=True,
            shape=(
                16,
                3,
                3,
            ),
        ),
        _column(
            "betas",
            pa.float32(),
            "1",
            "shape of the right-hand model; a left hand is its mirror image",
            nullable=True,
            shape=(10,),
        ),
        _column(
            "translation_m", pa.float32(), "m", "translation in the camera frame, true side", nullable=True, shape=(3,)
        ),
        _column(
            "joints_cam_m",
            pa.float32(),
            "m",
            "joints in OpenPose order, camera frame, true side; relative to the wrist where translation_m is null",
            shape=(
                21,
                3,
            ),
        ),
        _column(
            "joints_px",
            pa.float32(),
            "px",
            "joints in the full frame with the camera's lens",
            nullable=True,
            shape=(
                21,
                2,
            ),
        ),
        *_IDENTITY,
    ),
    "samples": (
        _SAMPLE_ID,
        *_STRATA,
        *(_column(name, pa.float64(), m.unit, m.meaning, nullable=True) for name, m in SAMPLE_METRICS.items()),
        *_IDENTITY,
    ),
    "joints": (
        _SAMPLE_ID,
        _column("joint", pa.string(), "", "joint in OpenPose naming"),
        _column("error_mm", pa.float32(), "mm", "wrist-aligned distance"),
        _column("error_px", pa.float32(), "px", "distance in the full frame", nullable=True),
        _column("visible", pa.bool_(), "", "nothing hides the joint and it is inside the picture"),
        *_IDENTITY,
    ),
    "comparison": (
        _column("other_run_id", pa.string(), "", "the run that this one is compared with, sample by sample"),
        _column("metric", pa.string(), "", "name as in the samples table"),
        _column("unit", pa.string(), "", "unit of values and interval"),
        _column("value", pa.float64(), "", "mean of this run over the samples that both have", nullable=True),
        _column("other_value", pa.float64(), "", "mean of the other run over the same samples", nullable=True),
        _column("difference", pa.float64(), "", "value minus other_value", nullable=True),
        _column("ci_low", pa.float64(), "", "lower end of the 95 % interval of the difference", nullable=True),
        _column("ci_high", pa.float64(), "", "upper end of the 95 % interval of the difference", nullable=True),
        _column("n", pa.int64(), "", "how many samples both have"),
        _column("sequences", pa.int64(), "", "how many sequences they come from"),
        _column("worse", pa.bool_(), "", "the run is worse beyond the interval (by sign where there is none)"),
        _column("note", pa.string(), "", "why there is no difference or no interval", nullable=True),
        *_IDENTITY,
    ),
    "robustness": (
        _column("kind", pa.string(), "", "what was done to boxes or crops; `none` is the reference"),
        _column("level", pa.float64(), "", "how much of it, in the unit of level_unit; 0 for `none`"),
        _column("level_unit", pa.string(), "", "unit of the level"),
        _column("side", pa.string(), "", "left, right, or all"),
        _column("metric", pa.string(), "", "name as in the samples table"),
        _column("unit", pa.string(), "", "unit of value and interval"),
        _column("value", pa.float64(), "", "the mean; null where nothing could be measured", nullable=True),
        _column("ci_low", pa.float64(), "", "lower end of the 95 % interval; null below 5 sequences", nullable=True),
        _column("ci_high", pa.float64(), "", "upper end of the 95 % interval; null below 5 sequences", nullable=True),
        _column("n", pa.int64(), "", "how many samples the mean has"),
        _column("sequences", pa.int64(), "", "how many sequences they come from"),
        _column("note", pa.string(), "", "why there is a value but no interval", nullable=True),
        *_IDENTITY,
    ),
    "summary": (
        _column("stratum", pa.string(), "", "`all`, or column=value of the rows that count"),
        _column("level", pa.string(), "", "what has equal weight in the mean: sample, joint or sequence"),
        _column("metric", pa.string(), "", "name as in the samples table"),
        _column("unit", pa.string(), "", "unit of value and interval"),
        _column("value", pa.float64(), "", "the mean; null where nothing could be measured", nullable=True),
        _column("ci_low", pa.float64(), "", "lower end of the 95 % interval; null below 5 sequences", nullable=True),
        _column("ci_high", pa.float64(), "", "upper end of the 95 % interval; null below 5 sequences", nullable=True),
        _column("n", pa.int64(), "", "how many samples, joints or sequences the mean has"),
        _column("sequences", pa.int64(), "", "how many sequences they come from"),
        _column("note", pa.string(), "", "why there is a value but no interval", nullable=True),
        *_IDENTITY,
    ),
    "training": (
        _column("step", pa.int64(), "", "optimiser step"),
        _column("epoch", pa.int64(), "", "epoch"),
        _column("split", pa.string(), "", "train or val"),
        _column("metric", pa.string(), "", "name of a loss term, weight, norm, rate or metric"),
        _column("value", pa.float64(), "", "its value; null where it was not finite", nullable=True),
        *_IDENTITY,
    ),
}


def arrow_schema(table: str) -> pa.Schema:
    """Arrow schema of a table; unit and meaning travel in the field metadata of the file."""
    return pa.schema([column.field for column in columns_of(table)])


def column_docs(table: str) -> list[tuple[str, str, str, str]]:
    """(name, type, unit, meaning) of each column, the partition column `run_id` first."""
    run_id = ("run_id", "string", "", "the run, from the path; begins with a letter")
    return [run_id, *((c.name, _type_name(c), c.unit, c.meaning) for c in columns_of(table))]


def _type_name(column: Column) -> str:
    """Lists of fixed size as "float[16,3,3]"."""
    return f"{column.kind}[{','.join(map(str, column.shape))}]" if column.shape else str(column.kind)


def columns_of(table: str) -> tuple[Column, ...]:
    if table not in SCHEMAS:
        raise ConfigError(f"unknown metric table {table!r}; there are {', '.join(SCHEMAS)}.")
    return SCHEMAS[table]
