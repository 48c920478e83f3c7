"""Paths, names, counts and checksums of ARCTIC's raw files in ARCTIC's own layout. Nothing is decoded.

{root}/raw_seqs/{subject}/{sequence}.{mano,object,egocam.dist,smplx}.npy
{root}/images or cropped_images/{subject}/{sequence}/{view}/00012.jpg       view 0 is egocentric, 1..8 are static
downloads/data/images_zips or cropped_images_zips/{subject}/{sequence}.zip    the same images as downloaded
{root}/meta/misc.json, meta/object_vtemplates/{object}/, {root}/splits_json/protocol_*.json
"""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from hawor_pipeline.errors import ConfigError, DataError, nearest
from hawor_pipeline.sources.image_files import ImageFile, list_images, list_zipped, member_checksums, with_checksums

SUBJECTS = tuple(f"s{number:02d}" for number in range(1, 11))
EGO_VIEW = 0
VIEW_COUNT = 9
SIDES = ("left", "right")  # in the order in which rows are sorted
RAW_PARTS = ("mano", "object", "egocam.dist")
BODY_PART = "smplx"  # read where a SMPL-X model is given; holds no hand labels that are used here
IMAGE_SOURCES = ("images", "cropped_images")
RAW_FOLDERS = ("raw_seqs", "meta", "splits_json", *IMAGE_SOURCES)
SYNTHETIC: Final = "synthetic"  # source of the built-in sample
SYNTHETIC_MARKER = "SYNTHETIC"
# Folders of ARCTIC's download between where a person may point and the layout above, and back up again.
_DESCENT = ("", "data", "arctic_data/data", "unpack/arctic_data/data", "data/arctic_data/data", "arctic", "unpack")
_ASCENT = 4
_UNPACKED = ("arctic_data", "data")  # end of the root's path as ARCTIC's scripts unpack it
_DOWNLOADS = "downloads"  # the folder into which ARCTIC's scripts download, beside `unpack`
_CHECKSUMS = ("bash/assets/checksum.json", "checksum.json")  # sha256 of each zip, as published with ARCTIC's code
_TEST_SUBJECT = "s03"  # ground truth withheld by the authors of ARCTIC, where no protocol file says so

_ROTATION_TOLERANCE = 1e-3
_FARTHEST_CAMERA_M = 20.0
_LONGEST_FOCAL_PX = 1e6

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
        candidates += [base.parent / step for base in (start, *parents) if base.name == _DOWNLOADS for step in _DESCENT]
        for candidate in candidates:
            if (candidate / "meta" / "misc.json").is_file():
                return cls(candidate.absolute())
        raise ConfigError(
            f"no ARCTIC data found at {start}: expected meta/misc.json beside raw_seqs there or in "
            f"{', '.join(step for step in _DESCENT if step)}. Give any folder level of ARCTIC's download."
        )

    @cached_property
    def source(self) -> Source:
        """Source of the files: `synthetic` where they are marked so, else `arctic`."""
        return SYNTHETIC if (self.path / SYNTHETIC_MARKER).exists() else "arctic"

    @cached_property
    def misc(self) -> dict[str, Any]:
        """`meta/misc.json` by subject."""
        file = self.path / "meta" / "misc.json"
        self.check_raw_file(file)
        return read_json(file)

    @cached_property
    def protocols(self) -> dict[str, dict[str, list[str]]]:
        """`splits_json/protocol_*.json` by protocol name (p1, p2): split to "subject/sequence"; empty where absent."""
        files = sorted((self.path / "splits_json").glob("protocol_*.json"))
        return {file.stem.removeprefix("protocol_"): read_json(file) for file in files}

    @cached_property
    def image_source(self) -> str:
        """Return the kind of images that are read: unpacked ones before those in zips, full ones before cropped ones.

        Raises:
            ConfigError: there are none.
        """
        for name in IMAGE_SOURCES:
            if (self.path / name).is_dir():
                return name
        for name in IMAGE_SOURCES:
            if self._zip_folder(name) is not None:
                return name
        raise ConfigError(
            f"{self.path}: found no images; expected a folder images or cropped_images beside raw_seqs, or "
            f"ARCTIC's zips of them in {_DOWNLOADS}/data/images_zips or cropped_images_zips."
        )

    @cached_property
    def _around(self) -> list[Path]:
        """Folders in which what was downloaded may lie."""
        near = [self.path, self.path.parent]
        if self.path.parts[-2:] == _UNPACKED:
            near.append(self.path.parents[2])
        return [folder for base in near for folder in (base, base / _DOWNLOADS / "data")]

    def _zip_folder(self, image_source: str) -> Path | None:
        return next((f for around in self._around if (f := around / f"{image_source}_zips").is_dir()), None)

    def image_zip(self, subject: str, sequence: str) -> Path | None:
        """The zip of a sequence's images, where it was kept."""
        folder = self._zip_folder(self.image_source)
        path = None if folder is None else folder / subject / f"{sequence}.zip"
        return path if path is not None and path.is_file() else None

    def reads_zip(self, subject: str, sequence: str, views: Iterable[int]) -> bool:
        """Return True where the images of any of these views are read from the sequence's zip."""
        images = (self.images(subject, sequence, view) for view in views)
        return any(found and next(iter(found.values())).member for found in images)

    def images(self, subject: str, sequence: str, view: int) -> dict[int, ImageFile]:
        """Images of one view by the number in their name, ascending.

        From the folder, or from the sequence's zip where that has more of them: unpacking may have been cut short.

        Raises:
            DataError: the zip is damaged.
        """
        files = list_images(self.image_folder(subject, sequence, view))
        archive = self.image_zip(subject, sequence)
        if archive is None:
            return files
        zipped = list_zipped(archive).get(view, {})
        return zipped if len(zipped) > len(files) else with_checksums(files, zipped)

    @cached_property
    def published_checksums(self) -> dict[str, str]:
        """sha256 by name of a zip ("/data/images_zips/s01/box_grab_01.zip"), from ARCTIC's code; empty where absent."""
        files = [around / name for around in self._around for name in _CHECKSUMS]
        found = next((file for file in files if file.is_file() and file.parent.name != _DOWNLOADS), None)
        return {} if found is None else read_json(found)

    def zip_checksum(self, archive: Path) -> str | None:
        """The published sha256 of a zip of images, where the user has ARCTIC's list of them."""
        return self.published_checksums.get("/data/" + "/".join(archive.parts[-3:]))

    def check_raw_file(self, path: Path) -> None:
        """Compare a file of raw_seqs or meta with the zip it came from, where that was kept.

        Raises:
            DataError: it differs, or a zip is damaged.
        """
        stated = self._raw_checksums().get(path.relative_to(self.path).as_posix())
        if stated is not None and zlib.crc32(path.read_bytes()) != stated:
            raise DataError(f"{path}: differs from the one in the download's zip (CRC-32); unpack it again.")

    def _raw_checksums(self) -> dict[str, int]:
        names = ("raw_seqs.zip", "meta.zip")
        kept = [next((f for around in self._around if (f := around / name).is_file()), None) for name in names]
        return {name: crc for archive in kept if archive is not None for name, crc in member_checksums(archive).items()}

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
        """Return present, withheld (by ARCTIC) or absent (not downloaded), for the ground truth of a subject."""
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
        """Sequences of a subject that have a folder or a zip of images, sorted."""
        folder, zips = self.path / self.image_source / subject, self._zip_folder(self.image_source)
        names = {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()
        return sorted(names | ({file.stem for file in (zips / subject).glob("*.zip")} if zips else set()))

    def raw_file(self, subject: str, sequence: str, part: str) -> Path:
        """Path of one raw array (part: mano, object, egocam.dist, smplx)."""
        return self.path / "raw_seqs" / subject / f"{sequence}.{part}.npy"

    def image_folder(self, subject: str, sequence: str, view: int) -> Path:
        """Folder of the images of one view."""
        return self.path / self.image_source / subject / sequence / str(view)

    def object_folder(self, object_name: str) -> Path:
        """Folder of an object's meshes."""
        return self.path / "meta" / "object_vtemplates" / object_name

    def body_template(self, subject: str) -> Path:
        """Path of a subject's rest mesh with SMPL-X's vertices."""
        return self.path / "meta" / "subject_vtemplates" / f"{subject}.obj"

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
        placed = are_rotations(poses[:, :3, :3]).all() and (np.abs(poses[:, :3, 3]) < _FARTHEST_CAMERA_M).all()
        if not placed or not all(map(is_camera_matrix, matrices)):
            raise DataError(f"{file}: a camera of {subject} is no camera (pose or matrix); get the file again.")
        return SubjectCameras(tuple((int(h), int(w)) for w, h in sizes), offset, poses, matrices)


def are_rotations(matrices: np.ndarray) -> np.ndarray:
    """Test which of (N, 3, 3) are rotation matrices, to single precision."""
    off = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).reshape(len(matrices), -1).max(1, initial=0)
    return (off <= _ROTATION_TOLERANCE) & (np.linalg.det(matrices) > 0)


def is_camera_matrix(matrix: np.ndarray) -> bool:
    """Test that a (3, 3) matrix maps rays to pixels: positive focal lengths, nothing below the diagonal."""
    focal = matrix[[0, 1], [0, 1]]
    rest = matrix[[1, 2, 2, 2], [0, 0, 1, 2]]
    return bool(((focal > 1) & (focal < _LONGEST_FOCAL_PX)).all() and np.allclose(rest, (0, 0, 0, 1)))


def _inside(candidate: Path, start: Path) -> bool:
    """Test that `start` lies within the layout of `candidate`, so that an unrelated parent is never taken."""
    first = start.absolute().relative_to(candidate).parts[0]
    return first in (*IMAGE_SOURCES, "raw_seqs", "meta", "splits_json")


def read_json(path: Path, of_each_object: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file; `of_each_object` as `object_hook` of the standard library.

    Raises:
        DataError: the file cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=of_each_object)
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


def missing_reason(subject: str, status: str) -> str:
    """Return why a subject has no ground truth here, as a sentence for people."""
    if status == "withheld":
        return f"the ground truth of {subject} is withheld by ARCTIC (test subject); zero samples"
    return f"{subject} is not downloaded: raw_seqs/{subject} holds no sequences; zero samples"
