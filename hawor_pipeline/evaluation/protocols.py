"""Evaluation protocols: subjects, views and conventions, without which numbers cannot be compared.

A protocol of a dataset (`arctic-*`, `freihand`, `ho3d`) is rejected on other data, because its name would promise a
different measurement. `hot3d-world` and `hint` name ways of measuring and accept any shards with the columns they need;
every row also has the source of its images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hawor_pipeline.config import ALL_VIEWS, STATIC_VIEWS
from hawor_pipeline.errors import ConfigError, DataError, nearest
from hawor_pipeline.shards.manifest import Manifest, read_manifests
from hawor_pipeline.shards.splits import VALIDATION_SUBJECTS

# The built-in sample has ARCTIC's layout and cameras and stands for it.
ARCTIC_SOURCES = ("arctic", "synthetic")


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol; samples weigh equally in all of them.

    Attributes:
        name: as in the tables.
        views: cameras to evaluate; None evaluates all.
        sources: datasets of the protocol; None accepts any.
        headlines: metrics that results under this name are quoted by.
        mirror_allowed: Procrustes alignment may mirror a hand.
        consecutive_frames: frames in a row that a hand needs in at least one view.
        meaning: for people.
        quirks: what a reader must know before comparing with published numbers.
    """

    name: str
    views: tuple[int, ...] | None
    sources: tuple[str, ...] | None
    headlines: tuple[str, ...]
    meaning: str
    quirks: str
    mirror_allowed: bool = False
    consecutive_frames: int = 1


_ARCTIC_HEADLINES = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "mrrpe_mm", "accel_error_m_s2")
_ARCTIC_QUIRKS = (
    "ARCTIC's table averages the two hands of an image first and then images; here every hand has the same weight, "
    "which gives another number if only one hand is valid. Object metrics are not part of it: they need objects."
)
_FREIHAND_QUIRKS = (
    "The alignment may mirror, as the official scripts do (scipy's orthogonal_procrustes after norm scaling), so a "
    "mirrored hand scores 0. F-scores are strict (<), PCK counts <=, the AUC has 100 thresholds from 0 to 50 mm."
)
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "arctic-all-val",
            ALL_VIEWS,
            ARCTIC_SOURCES,
            _ARCTIC_HEADLINES,
            "ARCTIC's validation subject, all nine views",
            _ARCTIC_QUIRKS,
        ),
        Protocol(
            "arctic-p1-val",
            STATIC_VIEWS,
            ARCTIC_SOURCES,
            _ARCTIC_HEADLINES,
            "ARCTIC's protocol 1 on its validation subject: the eight static views",
            _ARCTIC_QUIRKS,
        ),
        Protocol(
            "arctic-p2-val",
            (0,),
            ARCTIC_SOURCES,
            _ARCTIC_HEADLINES,
            "ARCTIC's protocol 2 on its validation subject: the egocentric view",
            _ARCTIC_QUIRKS + " Pixels are those of the distorted image.",
        ),
        Protocol(
            "freihand",
            None,
            ("freihand",),
            ("pa_mpjpe_mm", "pa_mpvpe_mm", "pa_f_score_5mm", "pa_f_score_15mm", "pa_pck_auc"),
            "FreiHAND's evaluation: errors after Procrustes alignment",
            _FREIHAND_QUIRKS + " FreiHAND's ring and little finger tips are other vertices (555, 672), a matter of its "
            "reader.",
            mirror_allowed=True,
        ),
        Protocol(
            "ho3d",
            None,
            ("ho3d",),
            ("pa_mpjpe_mm", "pa_mpvpe_mm", "st_mpjpe_mm", "pa_f_score_5mm", "pa_f_score_15mm", "pa_pck_auc"),
            "HO-3D's evaluation: errors after Procrustes alignment, and after scale and translation alone",
            _FREIHAND_QUIRKS + " The scale of st_mpjpe_mm is that of the bone from wrist to middle knuckle.",
            mirror_allowed=True,
        ),
        Protocol(
            "hot3d-world",
            None,
            None,
            ("pa_mpjpe_mm", "w_mpjpe_mm", "wa_mpjpe_mm", "rte", "accel_error_m_s2", "jitter"),
            "world-frame errors as HaWoR reports them on HOT3D: chunks of 100 frames, aligned by their first two "
            "frames (w) or as a whole (wa)",
            "The camera poses are the true ones of the shards, not those of a SLAM system, and both hands count, where "
            "HaWoR's script takes the right one. Both alignments fit a scale, as HaWoR's code does.",
            consecutive_frames=3,
        ),
        Protocol(
            "hint",
            None,
            None,
            ("pck_box_5pct", "pck_box_10pct", "pck_box_15pct"),
            "HInt's evaluation: share of joints in the image within 5, 10 and 15 % of the hand's box",
            "The box is the longer side of the tight box around the 21 true joints in the image. HInt's number is "
            "the mean over joints of each joint's rate: the summary has it at level `joint`, stratum `all`.",
        ),
    )
}
DEFAULT_PROTOCOL = "arctic-all-val"


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}; there are {', '.join(PROTOCOLS)}.{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def default_subjects(protocol: Protocol, shards_dir: Path | str) -> list[str]:
    """Return a protocol's default subjects: ARCTIC's validation subjects, or all subjects of other datasets.

    Raises:
        ConfigError: the folder does not exist.
    """
    manifests = _manifests(shards_dir)
    sources = {manifest.source for manifest in manifests.values()}
    if protocol.sources == ARCTIC_SOURCES or sources <= set(ARCTIC_SOURCES):
        return list(VALIDATION_SUBJECTS)
    return list(manifests)


def check_fits(protocol: Protocol, shards_dir: Path | str, subjects: Sequence[str]) -> str:
    """Check, from the manifests alone, that a protocol applies to these shards.

    Returns:
        The source of the shards.

    Raises:
        ConfigError: a subject is missing, or the protocol is for other data or other views.
        DataError: the subjects have no rows, or come from several sources.
    """
    source = _source_of(shards_dir, subjects)
    if protocol.sources is not None and source not in protocol.sources:
        fitting = [p.name for p in PROTOCOLS.values() if p.sources is None or source in p.sources]
        raise ConfigError(
            f"protocol {protocol.name!r} is one of {' or '.join(protocol.sources)} shards, those of {shards_dir} are "
            f"{source}; choose one of {', '.join(fitting)}, or convert that dataset (`prepare --dataset`)."
        )
    return source


def _source_of(shards_dir: Path | str, subjects: Sequence[str]) -> str:
    manifests = _manifests(shards_dir)
    if missing := sorted(set(subjects) - set(manifests)):
        raise ConfigError(
            f"no shards of {', '.join(missing)} in {shards_dir} (has {', '.join(manifests) or 'none'}); convert first."
        )
    sources = {manifests[subject].source for subject in subjects}
    if len(sources) != 1:
        raise DataError(f"evaluated subjects come from {sorted(sources)}, expected one source; keep them apart.")
    return sources.pop()


def _manifests(shards_dir: Path | str) -> dict[str, Manifest]:
    """Read the manifest of every converted subject, by name."""
    root = Path(shards_dir)
    if not root.is_dir():
        raise ConfigError(f"shards folder {root} does not exist; `hawor-pipeline prepare` makes it.")
    return read_manifests(root)
