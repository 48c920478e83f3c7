"""Shards as WebDataset tars in the form that HaMeR's training reads, and such tars read back.

A sample is `{key}.jpg`, the stored crop, and `{key}.data.pyd`, a pickled list with one dictionary per hand. All pixels
are those of the crop: geometry goes through `crop_from_image`. Poses are absolute, as HaMeR's MANO layer takes them.
Left hands stay left hands (`right` = 0); their `betas` are those of the mirrored right model, because HaMeR mirrors
them. What HaMeR does not know (camera, translation, lens) stands in `extra_info`, so that nothing is lost.

Source: the field names and shapes of HaMeR's published training tars.
"""

import io
import pickle
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hawor_pipeline.core.restricted_pickle import unpickle_data
from hawor_pipeline.data.shards import ShardSet, open_shards
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.provenance import staging_dir

SAMPLES_PER_TAR = 1000
SCALE_PX = 200.0  # HaMeR's unit of `scale`
_EXTRA = ("crop_from_image", "intrinsics", "distortion", "translation_m", "cam_from_world")
_COLUMNS = (
    *("sample_id", "is_right", "valid", "box_center_px", "box_size_px", "global_orient", "hand_pose"),
    *("betas_as_right", "joints_cam_m", "joints_px", "joint_in_frame", "joint_visible", "fitting_err", *_EXTRA),
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    output: Path
    tars: int
    samples: int
    left_out: int  # rows that are not valid


def export_webdataset(
    shards_dir: str | Path,
    output: str | Path,
    *,
    subjects: Sequence[str] | None = None,
    samples_per_tar: int = SAMPLES_PER_TAR,
) -> Exported:
    """Write the valid rows of shards as numbered tars; the bytes depend on the shards alone.

    Args:
        shards_dir: folder of shards.
        output: a new folder; appears whole or not at all.
        subjects: None for all.
        samples_per_tar: rows of each tar.

    Raises:
        ConfigError: the shards or a subject are not there, or `output` exists.
        DataError: a shard is damaged, or the disk is full.
    """
    output = Path(output)
    if output.exists():
        raise ConfigError(f"{output} exists already; choose another folder or remove it")
    shards = open_shards(shards_dir, subjects, columns=list(_COLUMNS))
    rows = np.flatnonzero(shards.column("valid"))
    if not len(rows):
        raise ConfigError(f"{shards_dir} holds no valid row; there is nothing to export")
    columns = {name: shards.column(name) for name in _COLUMNS}
    with staging_dir(output) as folder:
        parts = [rows[start : start + samples_per_tar] for start in range(0, len(rows), samples_per_tar)]
        for number, part in enumerate(parts):
            with tarfile.open(folder / f"{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for row in part:
                    _add_sample(tar, shards, columns, int(row))
    return Exported(output, len(parts), len(rows), len(shards) - len(rows))


def _add_sample(tar: tarfile.TarFile, shards: ShardSet, columns: dict[str, np.ndarray], row: int) -> None:
    values = {name: column[row] for name, column in columns.items()}
    key = values["sample_id"].replace("/", "-")
    _add_file(tar, f"{key}.jpg", shards.jpeg(row))
    _add_file(tar, f"{key}.data.pyd", dump_portable([hand_dictionary(values)]))


def _add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # no time, no owner
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def hand_dictionary(values: dict[str, Any]) -> dict[str, Any]:
    """One row as HaMeR's dictionary, in pixels of the stored crop.

    Args:
        values: column to the value of the row.
    """
    affine = values["crop_from_image"].astype(np.float64)
    known = values["joint_in_frame"].astype(np.float32)
    pixels = values["joints_px"].astype(np.float64) @ affine[:, :2].T + affine[:, 2]
    side = float(values["box_size_px"]) * float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
    return {
        "keypoints_2d": np.concatenate((pixels, known[:, None]), 1).astype(np.float32),
        "keypoints_3d": np.concatenate((values["joints_cam_m"], np.ones((21, 1))), 1).astype(np.float32),
        "center": (affine[:, :2] @ values["box_center_px"] + affine[:, 2]).astype(np.float32),
        "scale": np.full(2, side / SCALE_PX, np.float32),
        "hand_pose": np.concatenate((values["global_orient"], values["hand_pose"])).astype(np.float32),
        "betas": values["betas_as_right"].astype(np.float32),
        "right": np.float32(values["is_right"]).item(),
        "has_hand_pose": 1.0,
        "has_betas": 1.0,
        "extra_info": {
            "sample_id": values["sample_id"],
            "fitting_err": float(values["fitting_err"]),  # `fitting_loss` is a dictionary of its own losses to HaMeR
            "joint_visible": values["joint_visible"].astype(np.float32),
            **{name: values[name].astype(np.float32) for name in _EXTRA},
        },
    }


def read_webdataset(tars: Sequence[str | Path]) -> Iterator[tuple[str, bytes, list[dict[str, Any]]]]:
    """Samples of tars: key, JPEG, and the hands with their 2D keypoints, centre and side in the full frame.

    Files are read as data: a pickle that wants to run something is refused. Where a sample was exported by this
    project, `joints_px` (21, 2), `box_center_px` (2,) and `box_size_px` are added, full-frame pixels.

    Raises:
        DataError: a tar is damaged or holds something else.
    """
    for path in tars:
        try:
            _check_end(Path(path))
            with tarfile.open(path, "r:") as tar:
                yield from _samples(tar, Path(path))
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{path}: damaged or missing ({error}); export it again.") from None


def _check_end(path: Path) -> None:
    """A tar ends in two blocks of zeros; `tarfile` takes one that was cut inside a member's header for a complete one.

    Raises:
        EOFError: it was cut.
    """
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * tarfile.BLOCKSIZE))
        end = file.read()
    if len(end) < 2 * tarfile.BLOCKSIZE or end.strip(b"\0"):
        raise EOFError("it was cut short: the end of the archive is missing")


def _samples(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, bytes, list[dict[str, Any]]]]:
    waiting: dict[str, bytes] = {}
    for member in tar:
        key, _, kind = member.name.partition(".")
        file = tar.extractfile(member)
        if file is None:
            continue
        waiting[kind] = file.read()
        if kind == "data.pyd":
            hands = _hands(waiting[kind], f"{path}:{member.name}")
            if "jpg" not in waiting:
                raise DataError(f"{path}: {key} has no picture before its labels; expected {key}.jpg, {member.name}")
            yield key, waiting["jpg"], [_with_full_frame(hand) for hand in hands]
            waiting = {}


def _hands(data: bytes, name: str) -> list[dict[str, Any]]:
    try:
        hands = unpickle_data(data)
    except Exception as error:
        raise DataError(f"{name}: refused or damaged ({error})") from None
    if not isinstance(hands, list) or not all(isinstance(hand, dict) for hand in hands):
        raise DataError(f"{name}: holds {type(hands).__name__}, expected a list of dictionaries")
    return hands


def _with_full_frame(hand: dict[str, Any]) -> dict[str, Any]:
    extra = hand.get("extra_info", {})
    if "crop_from_image" not in extra:
        return hand
    affine = np.asarray(extra["crop_from_image"], np.float64)
    back = np.linalg.inv(affine[:, :2])
    side = hand["scale"][0] * SCALE_PX / np.sqrt(abs(np.linalg.det(affine[:, :2])))
    return {
        **hand,
        "joints_px": (hand["keypoints_2d"][:, :2] - affine[:, 2]) @ back.T,
        "box_center_px": back @ (hand["center"] - affine[:, 2]),
        "box_size_px": float(side),
    }


_PurePickler: Any = vars(pickle)["_Pickler"]  # the one written in Python, whose steps can be overridden


class _PortablePickler(_PurePickler):
    """Names numpy's functions by the path that numpy 1 and 2 both know."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = getattr(obj, "__module__", None) or ""
        if module.startswith("numpy._core"):
            old = module.replace("numpy._core", "numpy.core")
            self.write(pickle.GLOBAL + f"{old}\n{obj.__qualname__}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def dump_portable(value: Any) -> bytes:
    """Pickle (protocol 4) that old numpy versions read as well."""
    stream = io.BytesIO()
    _PortablePickler(stream, protocol=4).dump(value)
    return stream.getvalue()
