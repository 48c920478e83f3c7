"""Damaged shards: 1,000 files with flipped bits, pages of zeros, foreign pages, cut ends and foreign contents.

A shard of the sample is damaged in one file at a time, with its size (where it allows) and its times kept. All rows and
images are then read in the process that has read the whole shard before. Damage is silent if values differ from those
of the whole shard and nothing is raised. Bytes that no reader looks at (padding of the Arrow file) may change nothing.
"""

import collections
import os
import tempfile
from pathlib import Path

import numpy as np
from _measure import Row, from_rounds, run

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects
from hawor_pipeline.errors import HaworError
from hawor_pipeline.sample.spec import SampleSpec
from hawor_pipeline.sample.write import ensure_sample
from hawor_pipeline.shards.schema import COLUMNS
from hawor_pipeline.shards.store import open_shards

_PAGE = 4096
KINDS = ("bit", "zeros", "foreign page", "repeated page", "cut", "file of another sequence")


def contents(shards: Path, subject: str) -> list[bytes]:
    """Read everything that training and evaluation read of a subject."""
    opened = open_shards(shards, [subject])
    values = [opened.table[name].combine_chunks() for name in COLUMNS]
    return [str(value.to_pylist()).encode() for value in values] + [opened.jpeg(row) for row in range(len(opened))]


def damaged(kind: str, data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Return the damaged contents of a file."""
    changed = bytearray(data)
    start = int(rng.integers(0, max(1, len(data) - _PAGE)))
    if kind == "bit":
        changed[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    elif kind == "zeros":
        changed[start : start + _PAGE] = bytes(len(changed[start : start + _PAGE]))
    elif kind == "foreign page":
        changed[start : start + _PAGE] = other[start : start + _PAGE].ljust(len(changed[start : start + _PAGE]), b"\1")
    elif kind == "repeated page":
        changed[start : start + _PAGE] = changed[: len(changed[start : start + _PAGE])]
    elif kind == "cut":
        del changed[int(rng.integers(1, len(data))) :]
    else:
        return other
    return bytes(changed)


def outcome(shards: Path, path: Path, data: bytes, truth: list[bytes]) -> str:
    """Write damaged contents over a file with its times kept, read the subject, and restore the file."""
    state, whole = path.stat(), path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    try:
        return "harmless" if contents(shards, "s05") == truth else "silent"
    except HaworError:
        return "refused"
    finally:
        path.write_bytes(whole)


def measure(quick: bool) -> list[Row]:
    """Measure all rows; `quick` runs a tenth of the cases."""
    cases = 100 if quick else 1000
    counts: dict[str, int] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ensure_sample(work / "sample", SampleSpec(("s01", "s05"), 1, 8, (0, 1), image_scale=0.15), workers=2)
        settings = ConversionConfig(target_resolution=(64, 64), views=(0, 1))
        convert_subjects(work / "sample" / "arctic", None, ["s01", "s05"], work / "shards", settings, workers=2)
        truth = contents(work / "shards", "s05")
        own, other = (next(path for path in (work / "shards" / name).glob("*/")) for name in ("s05", "s01"))
        for case in range(cases):
            rng = np.random.default_rng(case)
            kind, name = KINDS[case % len(KINDS)], ("annotations.parquet", "images.arrow")[case // len(KINDS) % 2]
            data = damaged(kind, (own / name).read_bytes(), (other / name).read_bytes(), rng)
            result = outcome(work / "shards", own / name, data, truth)
            counts[result] += 1
            if result == "silent":
                print(f"case {case}: {kind} in {name} was not noticed", flush=True)
        print(dict(counts))
    return [
        from_rounds("silent_damage", [counts["silent"]], f"of {cases} damaged shard files", 0, "lower"),
        from_rounds("damage_judged", [sum(counts.values())], "damaged shard files", cases, "higher"),
    ]


if __name__ == "__main__":
    run(measure, "Damaged shards")
