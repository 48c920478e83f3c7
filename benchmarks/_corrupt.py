"""Random damage to raw files, and the outcome of a conversion of the damaged files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects
from hawor_pipeline.errors import HaworError
from hawor_pipeline.shards.store import open_shards

SUBJECT = "s05"
SETTINGS = ConversionConfig(target_resolution=(64, 64), views=(0, 1))
PARTS = ("mano", "object", "egocam.dist")
LABEL_TOLERANCE_M = 1e-5  # labels that moved by less count as equal
OUTCOMES = ("error", "ledger", "unharmed", "wrong", "crash")


@dataclass(frozen=True, slots=True)
class Truth:
    """Reference results of the undamaged conversion: joints and crop by sample."""

    joints: dict[str, np.ndarray]
    crops: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one damaged input: one of OUTCOMES, and the message or the affected sample."""

    kind: str
    message: str


class Source:
    """Copy of the raw data of one subject that is damaged and restored."""

    def __init__(self, arctic: Path) -> None:
        self.arctic = arctic
        self.sequence = next((arctic / "raw_seqs" / SUBJECT).glob("*.mano.npy")).name.split(".")[0]
        self.arrays = [arctic / "raw_seqs" / SUBJECT / f"{self.sequence}.{part}.npy" for part in PARTS]
        views = [arctic / "images" / SUBJECT / self.sequence / str(view) for view in SETTINGS.views]
        self.images = [path for view in views for path in sorted(view.glob("*.jpg"))]
        name = self.sequence.split("_")[0]
        self.meta = [arctic / "meta/misc.json", *sorted((arctic / "meta/object_vtemplates" / name).glob("*.obj"))]

    def convert(self, output: Path) -> None:
        """Convert the copy in this process."""
        convert_subjects(self.arctic, None, [SUBJECT], output, SETTINGS, workers=0)

    def truth(self, output: Path) -> Truth:
        """Convert the undamaged data."""
        self.convert(output)
        shards = open_shards(output)
        names = shards.column("sample_id").tolist()
        crops = {name: shards.jpeg(row) for row, name in enumerate(names)}
        return Truth(dict(zip(names, shards.column("joints_cam_m"), strict=True)), crops)


def judge(source: Source, truth: Truth, output: Path) -> Outcome:
    """Convert damaged data into an empty folder, and compare the published samples with the reference."""
    try:
        source.convert(output)
        found = open_shards(output)
    except HaworError as error:
        published = list(output.glob(f"{SUBJECT}/*/annotations.parquet"))
        return Outcome("wrong" if published else "error", str(error))
    except Exception as error:  # any other exception is not a message for users
        return Outcome("crash", f"{type(error).__name__}: {error}")
    names = found.column("sample_id").tolist()
    valid, joints = found.column("valid"), found.column("joints_cam_m")
    for row, name in enumerate(names):
        if not valid[row]:
            continue  # marked invalid, with the rule that it fails
        if name not in truth.joints or np.abs(joints[row] - truth.joints[name]).max() > LABEL_TOLERANCE_M:
            return Outcome("wrong", f"labels of {name}")
        if found.jpeg(row) != truth.crops[name]:
            return Outcome("wrong", f"image of {name}")
    lost = set(truth.joints) - {name for row, name in enumerate(names) if valid[row]}
    if not lost:
        return Outcome("unharmed", "")
    accounted = _accounted(output) | {name for row, name in enumerate(names) if not valid[row]}
    missing = sorted(lost - accounted)
    return Outcome("wrong", f"{missing[0]} is nowhere") if missing else Outcome("ledger", f"{len(lost)} samples")


def _accounted(output: Path) -> set[str]:
    """Return the samples in the ledger."""
    names = set()
    for path in output.glob("*/*/ledger.parquet"):
        for row in pq.read_table(path, partitioning=None).to_pylist():
            stem = f"{row['subject']}/{row['sequence']}/{row['view']}/{row['frame']:05d}"
            names |= {f"{stem}/{side}" for side in ([row["side"]] if row["side"] else ["left", "right"])}
    return names


Damage = Callable[[np.random.Generator], None]


def cut(path: Path) -> Damage:
    """Truncate a file."""
    return lambda rng: path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def flip(path: Path, bits: int = 1) -> Damage:
    """Flip bits at random positions."""

    def damage(rng: np.random.Generator) -> None:
        data = bytearray(path.read_bytes())
        for _ in range(bits):
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)

    return damage


def change_array(path: Path) -> Damage:
    """Write wrong shapes, non-finite values, wrong counts, wrong types or missing entries."""

    def damage(rng: np.random.Generator) -> None:
        raw = np.load(path, allow_pickle=True)  # written by this project
        value = raw.item() if raw.dtype == object else raw
        np.save(path, np.asarray(_change(value, rng)), allow_pickle=True)

    return damage


def _change(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, dict):
        value = dict(value)
        name = str(rng.choice([key for key in value if key not in ("R0", "T0", "source")]))
        if rng.random() < 0.1:
            del value[name]
        else:
            value[name] = _change(value[name], rng)
        return value
    array = np.array(value, copy=True)
    ways: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda a: a[: max(1, len(a) - int(rng.integers(1, 4)))],
        lambda a: np.concatenate([a, a[: int(rng.integers(1, 4))]]),
        lambda a: a[..., : max(1, a.shape[-1] - 1)] if a.ndim > 1 else a.reshape(1, -1, 1),
        lambda a: a[..., None],
        lambda a: a.astype(str),
        lambda a: _poison(a, rng, np.nan),
        lambda a: _poison(a, rng, np.inf),
        lambda a: _poison(a, rng, 1e30),
    ]
    return ways[int(rng.integers(len(ways)))](array)


def _poison(array: np.ndarray, rng: np.random.Generator, value: float) -> np.ndarray:
    array = array.astype(np.float64)
    array.reshape(-1)[int(rng.integers(array.size))] = value
    return array


def change_meta(path: Path) -> Damage:
    """Make an entry of misc.json missing, of the wrong shape, or not finite."""

    def damage(rng: np.random.Generator) -> None:
        misc = json.loads(path.read_text())
        entry = misc[SUBJECT]
        name = str(rng.choice(["image_size", "ioi_offset", "world2cam", "intris_mat"]))
        ways = [
            lambda: entry.pop(name),
            lambda: entry.update({name: entry[name][:-1] if isinstance(entry[name], list) else "?"}),
            lambda: entry.update({name: None}),
            lambda: entry.update({"world2cam": _poison(np.array(entry["world2cam"]), rng, np.nan).tolist()}),
            lambda: misc.pop(SUBJECT),
        ]
        ways[int(rng.integers(len(ways)))]()
        path.write_text(json.dumps(misc))

    return damage


def change_images(images: list[Path]) -> Damage:
    """Make images missing, empty, of another type or size, or add images."""

    def damage(rng: np.random.Generator) -> None:
        path = images[int(rng.integers(len(images)))]
        ways = [
            lambda: path.unlink(),
            lambda: path.write_bytes(b""),
            lambda: path.write_text("not an image"),
            lambda: shutil.copy(path, path.with_name(f"{int(rng.integers(100, 99999)):05d}.jpg")),
            lambda: path.write_bytes(path.read_bytes()[:2] + path.read_bytes()[500:]),
            lambda: [p.unlink() for p in rng.choice(np.array(images, object), 5, replace=False)],
        ]
        ways[int(rng.integers(len(ways)))]()

    return damage


def structural(source: Source, rng: np.random.Generator) -> Damage:
    """Apply damage that must be detected without a checksum."""
    image = source.images[int(rng.integers(len(source.images)))]
    array = source.arrays[int(rng.integers(len(source.arrays)))]
    meta = source.meta[int(rng.integers(len(source.meta)))]
    choices = [
        cut(image),
        cut(array),
        cut(meta) if meta.suffix == ".json" else cut(array),
        change_array(array),
        change_array(array),
        change_meta(source.meta[0]),
        change_images(source.images),
    ]
    return choices[int(rng.integers(len(choices)))]


def flipped(source: Source, rng: np.random.Generator) -> Damage:
    """Flip one to three bits in any file."""
    files = [*source.images, *(5 * source.arrays), *(3 * source.meta)]
    return flip(files[int(rng.integers(len(files)))], int(rng.integers(1, 4)))
