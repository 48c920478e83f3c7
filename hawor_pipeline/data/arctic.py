"""Where ARCTIC's raw files are, by ARCTIC's own layout. Paths, names and counts only; nothing is decoded here.

{root}/raw_seqs/{subject}/{sequence}.{mano,object,egocam.dist,smplx}.npy
{root}/images or cropped_images/{subject}/{sequence}/{view}/00012.jpg       view 0 is egocentric, 1..8 are static
{root}/meta/misc.json, meta/object_vtemplates/{object}/, {root}/splits_json/protocol_*.json
"""

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hawor_pipeline.errors import ConfigError, DataError, nearest

SUBJECTS = tuple(f"s{number:02d}" for number in range(1, 11))
EGO_VIEW = 0
VIEW_COUNT = 9
SIDES = ("left", "right")  # in the order in which rows are sorted
RAW_PARTS = ("mano", "object", "egocam.dist")  # smplx holds no hand labels that are used here
IMAGE_SOURCES = ("images", "cropped_images")
SYNTHETIC_MARKER = "SYNTHETIC"
MANO_DIR_VARIABLE = "MANO_DIR"
# Folders of ARCTIC's download between where a person may point and the layout above, and back up again.
_DESCENT = ("", "data", "arctic_data/data", "unpack/arctic_data/data", "data/arctic_data/data", "arctic", "unpack")
_ASCENT = 4
_TEST_SUBJECT = "s03"  # ground truth withheld by the authors of ARCTIC, where no protocol file says so
_IMAGE_NAME = re.compile(r"(\d+)\.jpg")

Source = Literal["arctic", "synthetic"]


@dataclass(frozen=True, slots=True)
class SubjectCameras:
    """Entry of one subject in `misc.json`. Static cameras are indexed by view - 1."""

    image_sizes: tuple[tuple[int, int], ...]  # (height, width) of views 0..8, full frames
    ioi_offset: int  # number of the image that shows ground truth 0
    cam_from_world: np.ndarray  # (8, 4, 4) metres
    intrinsics: np.ndarray  # (8, 3, 3) pixels


@dataclass(frozen=True)
class ArcticRoot:
    """One copy of ARCTIC (or of the built-in sample in its layout) on disk."""

    path: Path

    @classmethod
    def locate(cls, path: "str | Path | ArcticRoot") -> "ArcticRoot":
        """Find the root from any folder level of the download.

        Raises:
            ConfigError: the path does not exist, or neither it nor a folder near it holds `meta/misc.json`.
        """
        if isinstance(path, ArcticRoot):
            return path
        start = Path(path).expanduser()
        if not start.is_dir():
            raise ConfigError(f"ARCTIC root {start} does not exist; give the folder that holds raw_seqs and meta.")
        parents = [start.absolute().parents[level] for level in range(min(_ASCENT, len(start.absolute().parents)))]
        candidates = [start / step for step in _DESCENT] + [parent for parent in parents if _inside(parent, start)]
        for candidate in candidates:
            if (candidate / "meta" / "misc.json").is_file():
                return cls(candidate.absolute())
        raise ConfigError(
            f"no ARCTIC data found at {start}: expected meta/misc.json beside raw_seqs there or in "
            f"{', '.join(step for step in _DESCENT if step)}. Give any folder level of ARCTIC's download."
        )

    @cached_property
    def source(self) -> Source:
        """`synthetic` where the files say so themselves, else `arctic`."""
        return "synthetic" if (self.path / SYNTHETIC_MARKER).exists() else "arctic"

    @cached_property
    def misc(self) -> dict[str, Any]:
        """`meta/misc.json` by subject."""
        return read_json(self.path / "meta" / "misc.json")

    @cached_property
    def protocols(self) -> dict[str, dict[str, list[str]]]:
        """`splits_json/protocol_*.json` by protocol name (p1, p2): split to "subject/sequence"; empty where absent."""
        files = sorted((self.path / "splits_json").glob("protocol_*.json"))
        return {file.stem.removeprefix("protocol_"): read_json(file) for file in files}

    @cached_property
    def image_source(self) -> str:
        """Folder the pictures are read from: full images where present, else the cropped ones.

        Raises:
            ConfigError: there is neither.
        """
        for name in IMAGE_SOURCES:
            if (self.path / name).is_dir():
                return name
        raise ConfigError(
            f"{self.path}: found no pictures; expected a folder images or cropped_images beside raw_seqs."
        )

    def mano_dir(self, given: str | Path | None = None) -> Path:
        """Folder of the MANO models: as given, else `$MANO_DIR`, else `body_models/mano` beside the data.

        Raises:
            ConfigError: none of these exists.
        """
        chosen = given or os.environ.get(MANO_DIR_VARIABLE)
        beside = [self.path.parents[up] / "body_models" / "mano" for up in range(min(3, len(self.path.parents)))]
        candidates = [Path(chosen).expanduser()] if chosen else beside
        for candidate in candidates:
            if candidate.exists():
                return candidate.absolute()
        raise ConfigError(
            f"MANO models not found: searched {', '.join(map(str, candidates))}. Give --mano-dir or set "
            f"${MANO_DIR_VARIABLE}; register at https://mano.is.tue.mpg.de to download mano_v1_2.zip."
        )

    def subjects(self) -> tuple[str, ...]:
        """All subjects that the data set has, present here or not."""
        return tuple(sorted(set(SUBJECTS) | {name for name in self.misc if re.fullmatch(r"s\d+", name)}))

    def check_subject(self, subject: str) -> None:
        """Raises:
        ConfigError: the data set has no such subject.
        """
        if subject not in self.subjects():
            known = self.subjects()
            raise ConfigError(
                f"unknown subject {subject!r}; expected one of {known[0]}..{known[-1]}.{nearest(subject, known)}"
            )

    def status(self, subject: str) -> Literal["present", "withheld", "absent"]:
        """Whether the ground truth of a subject is here, held back by ARCTIC, or not downloaded."""
        self.check_subject(subject)
        if self.sequences(subject):
            return "present"
        tested = {name.split("/")[0] for splits in self.protocols.values() for name in splits.get("test", ())}
        return "withheld" if subject in (tested or {_TEST_SUBJECT}) else "absent"

    def sequences(self, subject: str) -> list[str]:
        """Sequences of a subject that have at least one raw file, sorted."""
        folder = self.path / "raw_seqs" / subject
        parts = {f".{part}.npy" for part in RAW_PARTS}
        names = os.listdir(folder) if folder.is_dir() else []
        return sorted({name.split(".", 1)[0] for name in names if "." in name and f".{name.split('.', 1)[1]}" in parts})

    def imaged_sequences(self, subject: str) -> list[str]:
        """Sequences of a subject that have a folder of pictures, sorted."""
        folder = self.path / self.image_source / subject
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []

    def raw_file(self, subject: str, sequence: str, part: str) -> Path:
        """Path of one raw array (part: mano, object, egocam.dist)."""
        return self.path / "raw_seqs" / subject / f"{sequence}.{part}.npy"

    def image_folder(self, subject: str, sequence: str, view: int) -> Path:
        """Folder of the pictures of one view."""
        return self.path / self.image_source / subject / sequence / str(view)

    def object_folder(self, object_name: str) -> Path:
        """Folder of an object's meshes."""
        return self.path / "meta" / "object_vtemplates" / object_name

    def cameras(self, subject: str) -> SubjectCameras:
        """Cameras of a subject.

        Raises:
            DataError: `misc.json` lacks the subject or an entry has the wrong shape.
        """
        file = self.path / "meta" / "misc.json"
        entry = self.misc.get(subject)
        if entry is None:
            raise DataError(f"{file}: no entry for {subject}; get the file again.")
        try:
            poses = np.asarray(entry["world2cam"], np.float64).reshape(VIEW_COUNT - 1, 4, 4)
            matrices = np.asarray(entry["intris_mat"], np.float64).reshape(VIEW_COUNT - 1, 3, 3)
            sizes = np.asarray(entry["image_size"]).reshape(VIEW_COUNT, 2).astype(int)
            offset = int(entry["ioi_offset"])
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{file}: entry of {subject} is damaged ({error}); get the file again.") from None
        if not (np.isfinite(poses).all() and np.isfinite(matrices).all() and (sizes > 0).all()):
            raise DataError(f"{file}: entry of {subject} has values that are not finite; get the file again.")
        return SubjectCameras(tuple((int(h), int(w)) for w, h in sizes), offset, poses, matrices)


def _inside(candidate: Path, start: Path) -> bool:
    """Whether `start` lies within the layout of `candidate`, so that an unrelated parent is never taken."""
    first = start.absolute().relative_to(candidate).parts[0]
    return first in (*IMAGE_SOURCES, "raw_seqs", "meta", "splits_json")


def read_json(path: Path) -> Any:
    """Raises:
    DataError: the file cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); get the file again.") from None


def split_sequence_name(sequence: str) -> tuple[str, str]:
    """Object and action of a sequence name; whatever follows (number, `_retake`) does not matter.

    >>> split_sequence_name("box_grab_01_retake2")
    ('box', 'grab')
    """
    fields = sequence.split("_")
    if len(fields) < 2:
        raise DataError(f"sequence {sequence!r}: expected a name like box_grab_01.")
    return fields[0], fields[1]


def list_images(folder: Path) -> dict[int, Path]:
    """Pictures of one view by the number in their name, ascending; empty where there is no folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return {}
    found = {int(match.group(1)): folder / name for name in names if (match := _IMAGE_NAME.fullmatch(name))}
    return dict(sorted(found.items()))
