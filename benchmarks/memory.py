"""Memory of a conversion worker: its peak on a sequence of real length, and its growth with the number of sequences.

A worker converts sequences one after the other in a separate process. The long sequence has 720 frames of ground truth
in two static views with 2800x2000 images, the length of ARCTIC's longest ones; the number of views does not affect the
memory of a worker. The many sequences are short and have the size of ARCTIC's cropped images.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from _frames import MOMENTS, SUBJECT, make_base, paint, write_source
from _measure import Row, from_rounds, run

LONG_FRAMES = 720
FEW, TIMES = 3, 10
KILOBYTES_PER_MEGABYTE = 1e3


def convert_and_print_peak(root: Path, output: Path, views: tuple[int, ...], count: int) -> None:
    """Convert some sequences in the child process and print its peak resident size in kilobytes."""
    from hawor_pipeline.config import ConversionConfig
    from hawor_pipeline.conversion.convert_sequence import convert_sequence
    from hawor_pipeline.conversion.planning import plan_subject
    from hawor_pipeline.conversion.prepare import open_job
    from hawor_pipeline.workers.pool import limit_threads

    limit_threads()
    job = open_job(root, output, ConversionConfig(views=views))
    for task in plan_subject(job, SUBJECT).tasks[:count]:
        convert_sequence(task)
    # not getrusage, which starts a child process with the peak of its parent
    status = Path("/proc/self/status").read_text()
    print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def peak_megabytes(root: Path, output: Path, views: tuple[int, ...], count: int) -> float:
    """Return the peak resident size of a worker that converts `count` sequences."""
    command = [sys.executable, __file__, "--child", str(root), str(output), ",".join(map(str, views)), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / KILOBYTES_PER_MEGABYTE


def measure(quick: bool) -> list[Row]:
    """Measure both rows; `quick` uses a shorter sequence."""
    frames = LONG_FRAMES // 4 if quick else LONG_FRAMES
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        spec = make_base(work / "base")
        images = paint(work / "base", spec, "images", (1, 4))
        write_source(work / "base", work / "long", images, frames // len(MOMENTS), 1)
        peak = peak_megabytes(work / "long", work / "out_long", (1, 4), 1)
        small = paint(work / "base", spec, "cropped_images", (1, 4))
        write_source(work / "base", work / "many", small, 2, FEW * TIMES)
        few = peak_megabytes(work / "many", work / "out_few", (1, 4), FEW)
        many = peak_megabytes(work / "many", work / "out_many", (1, 4), FEW * TIMES)
    print(f"{frames} frames: {peak:.0f} MB; {FEW} sequences: {few:.0f} MB; {FEW * TIMES}: {many:.0f} MB")
    return [
        from_rounds("worker_memory", [peak], f"MB at most, {frames} frames of ground truth", 1000, "lower"),
        from_rounds("worker_memory_growth", [many / few], f"peak with {TIMES} times the sequences", 1.1, "lower"),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        root, output, views, count = sys.argv[2:6]
        convert_and_print_peak(Path(root), Path(output), tuple(map(int, views.split(","))), int(count))
    else:
        run(measure, "Memory of a conversion worker")
