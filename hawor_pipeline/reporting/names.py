"""Names on the pages of metrics, strata and runs."""

METRIC_TITLES = {
    "mpjpe_mm": "Joint error (MPJPE)",
    "pa_mpjpe_mm": "Aligned joint error (PA-MPJPE)",
    "mpvpe_mm": "Vertex error (MPVPE)",
    "pa_mpvpe_mm": "Aligned vertex error (PA-MPVPE)",
    "mpjpe_camera_mm": "Joint error in the camera frame",
    "mpjpe_visible_mm": "Error of visible joints",
    "mpjpe_hidden_mm": "Error of hidden joints",
    "pck_3d_15mm": "Joints within 15 mm",
    "pck_auc": "PCK area, 0 to 50 mm",
    "f_score_5mm": "F-score at 5 mm",
    "f_score_15mm": "F-score at 15 mm",
    "global_orient_error_deg": "Wrist rotation error",
    "pose_error_deg": "Finger rotation error",
    "shape_error_mm": "Shape error",
    "translation_error_mm": "Translation error",
    "mpjpe_crop_px": "2D joint error, 256 px crop",
    "pck_2d_10px": "2D joints within 10 px",
    "detected": "Hands found",
    "accel_error_m_s2": "Acceleration error",
    "mrrpe_mm": "Error between the wrists (MRRPE)",
    "occlusion_robustness": "Hidden over clear hands",
}
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
