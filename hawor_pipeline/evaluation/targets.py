"""Quality targets of a run. Reached on the built-in sample, they mean nothing for real images, and are labelled so."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hawor_pipeline.evaluation.declared_metrics import ALL_METRICS
from hawor_pipeline.sources.arctic import SYNTHETIC


@dataclass(frozen=True, slots=True)
class Target:
    """A limit for one metric of the summary, over all samples."""

    metric: str
    limit: float
    label: str

    @property
    def sign(self) -> str:
        """Comparison of a value with the limit, "<" or ">"."""
        return "<" if ALL_METRICS[self.metric].better == "lower" else ">"

    def met_by(self, value: float | None) -> bool:
        """Test if a value reaches the target; an undefined one does not."""
        if value is None:
            return False
        return value < self.limit if self.sign == "<" else value > self.limit


TARGETS = (
    Target("mpjpe_mm", 10.0, "3D joint error, wrist-aligned"),
    Target("pck_3d_15mm", 0.85, "3D joints within 15 mm, wrist-aligned"),
    Target("mpjpe_crop_px", 15.0, "2D joint error in the 256 px crop"),
    Target("pck_2d_10px", 0.80, "2D joints within 10 px in the 256 px crop"),
)


def judge(metrics: Mapping[str, float], source: str) -> list[dict[str, Any]]:
    """Judge each target by the overall metrics: the value, `met`, and `sample_only` where the data are synthetic."""
    return [
        {
            **asdict(target),
            "sign": target.sign,
            "value": metrics.get(target.metric),
            "met": target.met_by(metrics.get(target.metric)),
            "sample_only": source == SYNTHETIC,
        }
        for target in TARGETS
    ]


def target_distance_mm() -> float:
    """Return the distance of the 3D PCK target, mm."""
    name = next(target.metric for target in TARGETS if target.metric.startswith("pck_3d_"))
    return float(name.removeprefix("pck_3d_").removesuffix("mm"))
