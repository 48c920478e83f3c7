"""Checks of an upload for ARCTIC's leaderboard; the server itself reports no errors.

Known reasons why an upload gets no answer: a file is missing (often the object's), a view is missing, files differ in
their number of rows, names do not match their folder, too few frames.
"""

import io
import pickle
import re
import zipfile
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.leaderboard.submission import FIRST_FRAME, HAND_FILES, OBJECT_FILES, TASK_VIEWS

NAMES_FILE = "meta_info/meta_info.imgname.pt"
SHAPES: dict[str, tuple[int, ...]] = {
    **{f"preds/pred.mano.{key}.{side}.pt": shape for key, shape in HAND_FILES.items() for side in "lr"},
    **{f"preds/pred.object.{key}.pt": shape for key, shape in OBJECT_FILES.items()},
}
_VIEW_FOLDER = re.compile(r"(s\d+)_(.+)_(\d)")
_IMAGE = re.compile(r"\./data/arctic_data/data/cropped_images/(s\d+)/(\w+)/(\d)/(\d{5})\.jpg")
_ORTHOGONAL = 1e-2  # half precision, which the server's own files have, is worse than single


@dataclass(frozen=True, slots=True)
class Expectation:
    """Required contents of an upload, as far as known: "subject/sequence" names, and images per view folder."""

    sequences: Collection[str] | None = None
    last_frame: Mapping[str, int] | None = None  # folder such as s03_box_grab_01_1 to the number of its last image


def check_upload(path: Path | str, expected: Expectation | None = None) -> list[str]:
    """List the problems of an upload, one sentence each; empty when the server can read it.

    Without an expectation, only the upload itself is checked.

    Raises:
        ConfigError: there is no such file.
    """
    path, expected = Path(path), expected or Expectation()
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the zip file of an upload.")
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                return [f"{damaged} is damaged in the zip file"]
            return _check(archive, expected)
    except zipfile.BadZipFile:
        return [f"{path.name} is not a zip file"]


def _check(archive: zipfile.ZipFile, expected: Expectation) -> list[str]:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    tops = sorted({name.split("/", 1)[0] for name in names})
    if len(tops) != 1:
        return [f"the zip must hold one folder named after its task; it has {', '.join(tops) or 'nothing'}"]
    task, _, split = tops[0].rpartition("_")
    if task not in TASK_VIEWS:
        return [f"{tops[0]} is not a hand pose task; expected {', '.join(f'{name}_test' for name in TASK_VIEWS)}"]
    problems = [] if split == "test" else [f"{tops[0]}: the server takes {task}_test only"]
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        parts = name.split("/", 3)
        if len(parts) != 4 or parts[1] != "eval":
            problems.append(f"{name} is not at a valid place")
        else:
            folders[parts[2]][parts[3]] = name
    problems += _check_views(folders, TASK_VIEWS[task], expected)
    for folder, files in sorted(folders.items()):
        problems += _check_folder(archive, folder, files, (expected.last_frame or {}).get(folder))
    return problems


def _check_views(folders: Mapping[str, Any], views: Sequence[int], expected: Expectation) -> list[str]:
    sequences = expected.sequences
    if sequences is None:  # at least, every sequence of the upload must have every view
        sequences = {"/".join(match.groups()[:2]) for name in folders if (match := _VIEW_FOLDER.fullmatch(name))}
    wanted = {f"{sequence.replace('/', '_', 1)}_{view}" for sequence in sequences for view in views}
    missing, more = sorted(wanted - set(folders)), sorted(set(folders) - wanted)
    return [f"{name} is missing" for name in missing] + [f"{name} does not belong to the task" for name in more]


def _check_folder(archive: zipfile.ZipFile, folder: str, files: Mapping[str, str], last_frame: int | None) -> list[str]:
    missing = [f"{folder}/{name} is missing" for name in (NAMES_FILE, *SHAPES) if name not in files]
    if missing:
        return missing
    problems = [f"{folder}/{name} is not part of an upload" for name in files if name not in (NAMES_FILE, *SHAPES)]
    names = _load(archive, files[NAMES_FILE])
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return [*problems, f"{folder}/{NAMES_FILE} is not a list of image names"]
    problems += _check_names(folder, names, last_frame)
    for file, shape in SHAPES.items():
        problems += _check_tensor(f"{folder}/{file}", _load(archive, files[file]), (len(names), *shape))
    return problems


def _load(archive: zipfile.ZipFile, name: str) -> Any:
    """Load a `.pt` file; return the exception where it holds more than data or is damaged."""
    try:
        return torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        return error


def _check_names(folder: str, names: Sequence[str], last_frame: int | None) -> list[str]:
    matches = [_IMAGE.fullmatch(name) for name in names]
    if None in matches:
        return [f"{folder}: {names[matches.index(None)]!r} is not named like {_example(folder)}"]
    owners = {f"{m[1]}_{m[2]}_{m[3]}" for m in matches if m}
    if owners != {folder}:
        return [f"{folder}: has images of {', '.join(sorted(owners - {folder}))}"]
    frames = [int(m[4]) for m in matches if m]
    problems = []
    if frames != list(range(FIRST_FRAME, FIRST_FRAME + len(frames))):
        problems.append(
            f"{folder}: frames must be {FIRST_FRAME}, {FIRST_FRAME + 1}, ... without a gap, the server compares by "
            f"position; found {frames[0]} to {frames[-1]}, {len(frames)} of them"
        )
    if last_frame is not None and frames[-1] < last_frame - FIRST_FRAME:
        problems.append(
            f"{folder}: ends with frame {frames[-1]}, but images reach {last_frame}; frames up to "
            f"{last_frame - FIRST_FRAME} are compared"
        )
    return problems


def _example(folder: str) -> str:
    match = _VIEW_FOLDER.fullmatch(folder)
    where = "/".join(match.groups()) if match else "s03/box_use_01/1"
    return f"./data/arctic_data/data/cropped_images/{where}/{FIRST_FRAME:05d}.jpg"


def _check_tensor(name: str, value: Any, shape: tuple[int, ...]) -> list[str]:
    if not isinstance(value, torch.Tensor):
        found = str(value).split("\n")[0] if isinstance(value, Exception) else type(value).__name__
        return [f"{name} does not hold a tensor ({found})"]
    if tuple(value.shape) != shape:
        return [f"{name} has shape {tuple(value.shape)}, expected {shape}"]
    if value.dtype not in (torch.float32, torch.float16):
        return [f"{name} is {value.dtype}, expected torch.float32"]
    if not torch.isfinite(value).all():
        return [f"{name} has values that are not finite"]
    if shape[1:] == HAND_FILES["pose"]:
        rotations = value.float()
        off = (rotations @ rotations.transpose(-1, -2) - torch.eye(3)).abs().amax()
        if off > _ORTHOGONAL or (torch.linalg.det(rotations) < 0).any():
            return [f"{name} holds matrices that are not rotations (off by {float(off):.2g})"]
    return []
