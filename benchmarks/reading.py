"""Reading shards for training, against Parquet with default settings and against a list in memory.

The shards are converted from images of the sample generator at the size of ARCTIC's cropped images, with the default
settings (384 px crops), and read from a warm page cache by one thread. Processor time is compared in one interleaved
run. Rows with decoding state it; a trainer pays for decoding, too.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
from _frames import SUBJECT, make_base, paint, write_source
from _measure import Row, from_rounds, run

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects
from hawor_pipeline.loading.clips import covering_clips
from hawor_pipeline.loading.dataset import ClipDataset
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.shards.store import ShardSet, open_shards

COPIES = 8  # of the three moments in a sequence: 24 consecutive frames in nine views
CLIP = 16
DEFAULT_READS = 3  # of the default Parquet, each of which reads a row group
RANDOM_READS = 400
CLIP_READS = 16


class InMemory:
    """The same shards with every JPEG in a list."""

    def __init__(self, shards: ShardSet) -> None:
        self.table = shards.table
        self.jpegs = [shards.jpeg(row) for row in range(len(shards))]

    def jpeg(self, index: int) -> bytes:
        """Return the encoded crop of one row."""
        return self.jpegs[index]


def seconds_each(work: Callable[[int], object], indices: np.ndarray) -> float:
    """Return the mean processor seconds of a call."""
    start = time.process_time()
    for index in indices:
        work(int(index))
    return (time.process_time() - start) / len(indices)


def measure(quick: bool) -> list[Row]:
    """Measure all rows; each round draws new samples."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rounds = 5 if quick else 15
    with tempfile.TemporaryDirectory() as folder:
        shards = _make_shards(Path(folder), sequences=1 if quick else 3)
        default = Path(folder) / "default.parquet"
        memory = InMemory(shards)
        columns = shards.table.drop_columns(["shard_id", "row_in_shard"])
        pq.write_table(columns.append_column("jpeg", pa.array(memory.jpegs, pa.binary())), default)
        print(f"{len(shards)} crops of {np.mean([len(j) for j in memory.jpegs]) / 1e3:.1f} kB")
        rows = _measure_random(shards, memory, default, rounds)
        return [*rows, _measure_clips(shards, memory, rounds)]


def _make_shards(folder: Path, sequences: int) -> ShardSet:
    spec = make_base(folder / "base")
    images = paint(folder / "base", spec, "cropped_images")
    write_source(folder / "base", folder / "source", images, COPIES, sequences)
    convert_subjects(folder / "source" / "arctic", None, [SUBJECT], folder / "shards", ConversionConfig(), workers=2)
    return open_shards(folder / "shards")


def _measure_random(shards: ShardSet, memory: InMemory, default: Path, rounds: int) -> list[Row]:
    """Measure single samples in random order."""
    rng = np.random.default_rng(0)
    file = pq.ParquetFile(default, memory_map=True)
    group_rows = file.metadata.row_group(0).num_rows

    def from_default(index: int) -> bytes:
        group, row = divmod(index, group_rows)
        return file.read_row_group(group, columns=["jpeg"]).column(0)[row].as_py()

    assert from_default(7) == shards.jpeg(7)
    faster, slower = [], []
    for number in range(rounds):
        indices = rng.integers(len(shards), size=RANDOM_READS)
        ours = seconds_each(shards.jpeg, indices)
        faster.append(seconds_each(from_default, indices[:DEFAULT_READS]) / ours)
        ways = [shards, memory] if number % 2 else [memory, shards]
        took = {way: seconds_each(lambda i: simplejpeg.decode_jpeg(way.jpeg(i)), indices) for way in ways}  # noqa: B023
        slower.append(took[shards] / took[memory])
    return [
        from_rounds("read_random", faster, "times default Parquet, without decoding", 20, "higher"),
        from_rounds("read_vs_memory", slower, "time over a list in memory, decoding included", 1.3, "lower"),
    ]


def _measure_clips(shards: ShardSet, memory: InMemory, rounds: int) -> Row:
    """Measure clips of 16 consecutive frames as in training: decoded, resampled, with labels."""
    rows = load_rows(shards.table)
    clips = covering_clips(shards.table, CLIP)
    whole = clips.take(np.flatnonzero(clips.counted.all(axis=1)))
    ours, theirs = (ClipDataset(source, rows, whole, 256) for source in (shards, memory))  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    ratios = []
    for number in range(rounds):
        indices = rng.integers(len(whole), size=CLIP_READS)
        ways = [ours, theirs] if number % 2 else [theirs, ours]
        took = {way: seconds_each(lambda i: way[[i]], indices) for way in ways}  # noqa: B023 - called at once
        ratios.append(took[ours] / took[theirs])
    return from_rounds("read_clip_vs_memory", ratios, "time over a list in memory, decoding included", 1.3, "lower")


if __name__ == "__main__":
    run(measure, "Reading: single samples and clips")
