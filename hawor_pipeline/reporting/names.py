"""Names on the pages of metrics, strata and runs."""

from hawor_pipeline.evaluation.declared_metrics import METRICS

METRIC_TITLES = {metric.name: metric.title for metric in METRICS if metric.title}
COMPARED_IN_PAIRS = (  # of two runs; the report of one run compares most of them with its baselines
    "mpjpe_mm",
    "pa_mpjpe_mm",
    "mpvpe_mm",
    "pa_mpvpe_mm",
    "pck_3d_15mm",
    "pck_auc",
    "f_score_15mm",
    "global_orient_error_deg",
    "pose_error_deg",
    "translation_error_mm",
    "mpjpe_crop_px",
    "pck_2d_10px",
    "detected",
    "accel_error_m_s2",
)
STRATA = (
    ("subject", "Subject"),
    ("view", "View"),
    ("side", "Hand"),
    ("object", "Object"),
    ("action", "Action"),
    ("occlusion", "Share of hidden joints"),
    ("truncation", "Share outside the image"),
    ("depth_m", "Distance from the camera, m"),
    ("speed_m_s", "Speed of the hand, m/s"),
)
_BASELINE = "baseline-"


def title_of(metric: str) -> str:
    """Return the title of a metric; its column name where it has none."""
    return METRIC_TITLES.get(metric, metric)


def short_run_name(run_id: str) -> str:
    """Shorten the run_id of a baseline to its kind, without the dataset version; others stay as they are."""
    if not run_id.startswith(_BASELINE):
        return run_id
    return run_id.removeprefix(_BASELINE).split("-", 1)[0].replace("_", " ")
