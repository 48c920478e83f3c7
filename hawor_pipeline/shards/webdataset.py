"""Export of shards as WebDataset tars in the format of HaMeR's training, and reading of such tars.

A sample is `{key}.jpg`, the stored crop, and `{key}.data.pyd`, a pickled list with one dictionary per hand. All pixels
are those of the crop: geometry goes through `crop_from_image`. Poses are absolute, as HaMeR's MANO layer takes them.
Left hands stay left hands (`right` = 0); their `betas` are those of the mirrored right model, because HaMeR mirrors
them. Values that HaMeR's fields do not hold exactly (camera, translation, lens, full-frame pixels, ...) are stored in
`extra_info` under the columns' names, with the origin of the sequence, so that `webdataset_import` can restore shards.

Source: the field names and shapes of HaMeR's published training tars.
"""

import io
import json
import pickle
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.provenance import staging_dir
from hawor_pipeline.remote import local_copy
from hawor_pipeline.shards.manifest import Manifest, read_manifest
from hawor_pipeline.shards.schema import COLUMNS, DISTANCES_FILE
from hawor_pipeline.shards.splits import record_protocols, recorded_protocols
from hawor_pipeline.shards.store import ShardSet, open_shards, read_side_tables
from hawor_pipeline.untrusted.restricted_pickle import unpickle_data

SAMPLES_PER_TAR = 1000
_LARGEST_MEMBER = 64 << 20  # bytes of an image or of the labels of one sample
SCALE_PX = 200.0  # HaMeR's unit of `scale`
Row = dict[str, Any]  # column to value, of the types that `COLUMNS` declares
Hand = dict[str, Any]  # HaMeR's dictionary of one hand, checked field by field when it is read
# Columns that follow exactly from `sample_id`, HaMeR's own fields and being valid; all others are in `extra_info`.
_DERIVED = {
    *("subject", "sequence", "view", "frame", "side", "is_right", "valid", "skip_reason"),
    *("global_orient", "hand_pose", "betas_as_right", "joints_cam_m", "joint_in_frame"),
}
CARRIED = tuple(name for name in COLUMNS if name not in _DERIVED)
CHECKSUM = "image_crc32"  # CRC-32 of the sample's image; not in earlier tars
DISTANCE = "hand_object_distance_m"  # of the side table; absent if unknown


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export."""

    output: Path
    tars: int
    samples: int
    skipped: int  # rows that are not valid


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of the samples of one sequence; each carries it, so that a tar needs no file beside it."""

    source: str
    data_version: str
    converter_version: int
    settings: str  # of the conversion, JSON
    samples_in_sequence: int  # number of exported ones; fewer in the tars mean that a tar is missing
    hand_models: str = ""  # digests of the models that the labels were made with, JSON; "" if not recorded
    convention: str = ""  # the dataset's MANO convention, JSON; "" in tars of earlier versions


def export_webdataset(
    shards_dir: str | Path,
    output: str | Path,
    *,
    subjects: Sequence[str] | None = None,
    samples_per_tar: int = SAMPLES_PER_TAR,
) -> Exported:
    """Write the valid rows of shards as numbered tars; the bytes depend on the shards alone.

    Exports one sequence after another. The recorded protocols are copied beside the tars.

    Args:
        shards_dir: Folder of shards.
        output: A new folder; appears whole or not at all.
        subjects: None for all.
        samples_per_tar: Rows per tar.

    Raises:
        ConfigError: The shards or a subject are missing, or `output` exists.
        DataError: A shard is damaged, or the disk is full.
    """
    output = Path(output)
    if samples_per_tar < 1:
        raise ConfigError(f"{samples_per_tar} samples per tar: expected 1 or more")
    if output.exists():
        raise ConfigError(f"{output} exists already; choose another folder or remove it")
    root = local_copy(shards_dir)
    chosen = None if subjects is None else list(dict.fromkeys(subjects))
    overview = open_shards(root, chosen, columns=["valid"])
    if not overview.column("valid").any():
        raise ConfigError(f"{shards_dir} holds no valid row; there is nothing to export")
    written = tars = 0
    with staging_dir(output) as folder:
        numbered = enumerate(_samples_of(root, dict.fromkeys(each.parent.name for each in overview.directories)))
        for tars, part in groupby(numbered, key=lambda item: 1 + item[0] // samples_per_tar):
            with tarfile.open(folder / f"{tars - 1:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for _, (key, jpeg, hand) in part:
                    _add_file(tar, f"{key}.jpg", jpeg)
                    _add_file(tar, f"{key}.data.pyd", dump_portable([hand]))
                    written += 1
        record_protocols(folder, recorded_protocols(root))
    return Exported(output, tars, written, len(overview) - written)


def _samples_of(root: Path, subjects: Iterable[str]) -> Iterator[tuple[str, bytes, Hand]]:
    """Yield (key, JPEG, hand) of every valid row."""
    for subject in subjects:
        manifest = read_manifest(root, subject) or Manifest()
        distances: dict[str, dict[tuple[int, str], float]] = {}
        for row in read_side_tables(root, [subject], DISTANCES_FILE).to_pylist():
            distances.setdefault(row["sequence"], {})[row["gt_index"], row["side"]] = row[DISTANCE]
        for entry in manifest.sequences:
            shards = open_shards(root, [subject], sequences=[entry.sequence])
            origin = Origin(
                shards.source,
                entry.data_version or "",
                manifest.converter_version,
                json.dumps(manifest.settings, sort_keys=True),
                int(shards.column("valid").sum()),
                json.dumps(manifest.hand_models, sort_keys=True) if manifest.hand_models else "",
                json.dumps(asdict(manifest.mano_convention), sort_keys=True),
            )
            yield from _samples_of_sequence(shards, origin, distances.get(entry.sequence, {}))


def _samples_of_sequence(
    shards: ShardSet, origin: Origin, distances: dict[tuple[int, str], float]
) -> Iterator[tuple[str, bytes, Hand]]:
    columns = {name: shards.column(name) for name in COLUMNS}
    for row in np.flatnonzero(columns["valid"]):
        values = {name: column[row] for name, column in columns.items()}
        hand = hand_dictionary(values)
        jpeg = shards.jpeg(int(row))
        hand["extra_info"] |= {**asdict(origin), CHECKSUM: zlib.crc32(jpeg)}
        moment = (int(values["gt_index"]), values["side"])
        if moment in distances:
            hand["extra_info"][DISTANCE] = distances[moment]
        yield values["sample_id"].replace("/", "-"), jpeg, hand


def _add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # no time, no owner: the bytes depend on the shards alone
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def hand_dictionary(values: Row) -> Hand:
    """Convert one row to HaMeR's dictionary, in pixels of the stored crop.

    Args:
        values: Column to the value of the row.
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
        # No `fitting_loss`: to HaMeR that is a dictionary of its own losses.
        "extra_info": {name: _plain(name, values[name]) for name in CARRIED},
    }


def _plain(name: str, value: Any) -> np.ndarray | str | float | int:
    """Return a value of a column as an array of the column's type, or as a Python scalar."""
    column = COLUMNS[name]
    if column.shape:
        return np.ascontiguousarray(value, column.kind.to_pandas_dtype())
    return value if isinstance(value, str) else value.item()


def read_webdataset(tars: Sequence[str | Path]) -> Iterator[tuple[str, bytes, list[Hand]]]:
    """Read the samples of tars: key, JPEG, and the hands.

    Files are read as data: a pickle that would run code is refused. Hands that were exported by this project get
    `joints_px` (21, 2), `box_center_px` (2,) and `box_size_px` in full-frame pixels.

    Raises:
        DataError: A tar is damaged or has other contents.
    """
    for path in tars:
        try:
            _check_end(Path(path))
            with tarfile.open(path, "r:") as tar:
                yield from _samples(tar, Path(path))
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{path}: damaged or missing ({error}); export it again.") from None


def _check_end(path: Path) -> None:
    """Check the two blocks of zeros at the end of a tar: `tarfile` accepts one that was cut inside a member's header.

    Raises:
        EOFError: It was cut.
    """
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * tarfile.BLOCKSIZE))
        end = file.read()
    if len(end) < 2 * tarfile.BLOCKSIZE or end.strip(b"\0"):
        raise EOFError("it was cut short: the end of the archive is missing")


def _samples(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, bytes, list[Hand]]]:
    image_key, image = "", b""
    for member in tar:
        key, _, kind = member.name.partition(".")
        if member.isdir():
            continue
        # a sparse member of some kilobytes can expand to gigabytes, and a link can point anywhere
        if not member.isreg() or member.issparse() or member.size > _LARGEST_MEMBER:
            raise DataError(
                f"{path}:{member.name}: not a plain file of at most {_LARGEST_MEMBER >> 20} MiB; expected the tars of "
                "an export. Export again."
            )
        file = tar.extractfile(member)
        assert file is not None  # of a plain file
        data = file.read()
        if kind == "jpg":
            image_key, image = key, data
        elif kind == "data.pyd":
            hands = _hands(data, f"{path}:{member.name}")
            if image_key != key or not image:
                raise DataError(
                    f"{path}: {key} has no image before its labels, found {image_key or 'none'}; expected {key}.jpg, "
                    f"{member.name}"
                )
            try:
                hands = [_with_full_frame(hand) for hand in hands]
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise DataError(
                    f"{path}:{member.name}: its fields do not fit together ({error!r}); export again"
                ) from None
            yield key, image, hands
            image_key, image = "", b""


def _hands(data: bytes, name: str) -> list[Hand]:
    try:
        hands = unpickle_data(data)
    except Exception as error:
        raise DataError(f"{name}: refused or damaged ({error})") from None
    if not isinstance(hands, list) or not all(isinstance(hand, dict) for hand in hands):
        raise DataError(f"{name}: holds {type(hands).__name__}, expected a list of dictionaries")
    return hands


def _with_full_frame(hand: Hand) -> Hand:
    extra = hand.get("extra_info")
    if not isinstance(extra, dict) or "crop_from_image" not in extra:
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


_PurePickler: Any = vars(pickle)["_Pickler"]  # the implementation in Python, whose methods can be overridden


class _PortablePickler(_PurePickler):
    """Pickler that refers to numpy's functions by the path that both numpy 1 and 2 have."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = getattr(obj, "__module__", None) or ""
        if module.startswith("numpy._core"):
            old = module.replace("numpy._core", "numpy.core")
            self.write(pickle.GLOBAL + f"{old}\n{obj.__qualname__}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def dump_portable(value: Any) -> bytes:
    """Pickle a value (protocol 4) so that old numpy versions can read it, too."""
    stream = io.BytesIO()
    _PortablePickler(stream, protocol=4).dump(value)
    return stream.getvalue()
