"""The specification of a sample and its sequences: subjects, frame counts and the irregularities of ARCTIC.

Light to import: no torch, no OpenCV.
"""

from dataclasses import dataclass

import numpy as np

from hawor_pipeline.errors import ConfigError, nearest

SUBJECTS = tuple(f"s{i:02d}" for i in range(1, 11))
VALIDATION_SUBJECT, WITHHELD_SUBJECT = "s05", "s03"
RETAKE_SUBJECTS = ("s01", "s06")  # the last sequence of each is a retake
IOI_OFFSETS = dict(zip(SUBJECTS, (2, 1, 3, 1, 2, 4, 1, 3, 2, 1), strict=True))
# In the order in which sequences play them. The last four follow after the sequences that samples had before they
# existed, whose images stay the same.
OBJECT_NAMES = (
    "box", "laptop", "notebook", "phone", "waffleiron", "ketchup", "microwave",
    "capsulemachine", "mixer", "espressomachine", "scissors",
)  # fmt: skip
_EARLY_OBJECTS, _EARLY_SEQUENCES = 7, 12
IMAGE_SOURCES = ("images", "cropped_images")
# Images past the last ground-truth frame; negative where the cameras stopped first.
EXTRA_IMAGES = (2, -1, 0, 1, -3)
SYNTHETIC_NOTE = """\
This folder was generated. It has the layout of the ARCTIC dataset, but it is not ARCTIC: no person was filmed, the
hands are a procedural model with the format of MANO, and every image is a rendering. Use it to try, test and watch
the pipeline; results on it do not carry over to real hands."""


@dataclass(frozen=True)
class SampleSpec:
    """Specification of a sample.

    Attributes:
        subjects: some of s01..s10; the val and test subjects are s05 and s03, whose ground truth is withheld.
        sequences_per_subject: recordings of each subject.
        frames: ground-truth frames per sequence at 30 frames per second; images are a few more or fewer.
        views: 0 is the head-mounted camera, 1..8 are the static ones.
        image_source: `images` (full frames) or `cropped_images` (ARCTIC's smaller download).
        image_scale: size of images and intrinsics relative to 2800 x 2000. The default is 0.25 for `images` and 1, the
            only possible one, for `cropped_images`.
        seed: seed of every random generator.
        tempo: speed of all motion, 1 is natural. Above 1 a short sequence holds more poses; the exposure stays that
            of a real camera, as if the images were further apart in time.
    """

    subjects: tuple[str, ...] = SUBJECTS
    sequences_per_subject: int = 2
    frames: int = 36
    views: tuple[int, ...] = tuple(range(9))
    image_source: str = "images"
    image_scale: float = None  # type: ignore[assignment]  # a float from `__post_init__` on
    seed: int = 0
    tempo: float = 1.0

    def __post_init__(self) -> None:
        if self.image_scale is None:
            object.__setattr__(self, "image_scale", 1.0 if self.image_source == "cropped_images" else 0.25)

    def check(self) -> None:
        """Raise ConfigError if the specification is impossible."""
        for name in self.subjects:
            if name not in SUBJECTS:
                raise ConfigError(
                    f"found subject {name!r}, expected some of {' '.join(SUBJECTS)}.{nearest(name, SUBJECTS)}"
                )
        if len(set(self.subjects)) != len(self.subjects) or not self.subjects:
            raise ConfigError(f"found subjects {list(self.subjects)}, expected each once and at least one.")
        if not self.views or len(set(self.views)) != len(self.views) or any(v not in range(9) for v in self.views):
            raise ConfigError(f"found views {list(self.views)}, expected some of 0 (head) and 1 to 8, each once.")
        if self.sequences_per_subject < 1 or self.frames < 8:
            raise ConfigError(
                f"found {self.sequences_per_subject} sequences of {self.frames} frames, expected at least 1 of 8."
            )
        if self.image_source not in IMAGE_SOURCES:
            raise ConfigError(f"found image source {self.image_source!r}, expected one of {', '.join(IMAGE_SOURCES)}.")
        if not 0.05 <= self.image_scale <= 1:
            raise ConfigError(f"found image scale {self.image_scale}, expected 0.05 to 1 (1 is 2800 x 2000 pixels).")
        if not 0.1 <= self.tempo <= 10:
            raise ConfigError(f"found tempo {self.tempo}, expected 0.1 to 10 (1 is natural).")
        if self.image_source == "cropped_images" and self.image_scale != 1:
            raise ConfigError(
                f"found image scale {self.image_scale} with cropped_images, expected 1: their sizes are fixed by "
                "ARCTIC. Omit the scale, or choose images."
            )


@dataclass(frozen=True)
class SequencePlan:
    """One sequence: images 1..image_count, of which number n shows ground-truth frame n - ioi_offset."""

    subject: str
    name: str
    object_name: str
    action: str
    number: int
    frames: int
    ioi_offset: int
    image_count: int
    black_images: tuple[int, ...]

    @property
    def has_ground_truth(self) -> bool:
        """True where `raw_seqs` of the subject are published."""
        return self.subject != WITHHELD_SUBJECT


def _object_number(place: int, k: int) -> int:
    """Return the object of a subject's k-th sequence: all of the early ones in turn, then all of the others, again."""
    late = len(OBJECT_NAMES) - _EARLY_OBJECTS
    turn, k = divmod(k, _EARLY_SEQUENCES + late)
    if k < _EARLY_SEQUENCES:
        return (3 * place + k + _EARLY_SEQUENCES * turn) % _EARLY_OBJECTS
    return _EARLY_OBJECTS + (place + k) % late


def plan_sequences(spec: SampleSpec) -> list[SequencePlan]:
    """List all sequences, by subject in the order given."""
    plans = []
    for subject in spec.subjects:
        place = SUBJECTS.index(subject)
        rng = np.random.default_rng([spec.seed, place, 3])
        seen: dict[str, int] = {}
        for k in range(spec.sequences_per_subject):
            object_name = OBJECT_NAMES[_object_number(place, k)]
            action = ("use", "grab")[(place + k) % 2]
            stem = f"{object_name}_{action}"
            seen[stem] = seen.get(stem, 0) + 1
            retake = subject in RETAKE_SUBJECTS and k == spec.sequences_per_subject - 1
            offset = IOI_OFFSETS[subject]
            plans.append(
                SequencePlan(
                    subject=subject,
                    name=f"{stem}_{seen[stem]:02d}" + ("_retake" if retake else ""),
                    object_name=object_name,
                    action=action,
                    number=k,
                    frames=spec.frames,
                    ioi_offset=offset,
                    image_count=spec.frames - 1 + offset + EXTRA_IMAGES[(place + k) % len(EXTRA_IMAGES)],
                    black_images=(1, 2) if rng.random() < 0.3 else (1,),
                )
            )
    return plans
