"""Cost of a Ray cluster over processes of one machine, and the estimate for all of ARCTIC.

Both engines run the same conversion on the same cores, in turn. Then one process converts images of ARCTIC's size
(painted, see conversion.py) with visibility, and its rate is inserted into the model of docs/scale.md.
"""

import hashlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from _crops import DECODING
from _frames import MOMENTS, make_base, paint, write_source
from _measure import Row, from_rounds, run
from _workers import Workers
from conversion import Job, convert, warm_up

PORT, JOBS_PORT = 6393, 8293
EMPTY_TASKS = 200
COPIES = 4  # of the painted moments
IMAGES, SEQUENCES, WORKERS = 2_100_000, 339, (1, 8, 64)  # ARCTIC: its paper, its list of sequences
SUBJECTS = ("s01", "s02", "s04", "s05")


@contextmanager
def cluster():
    """Start a Ray head with as many cores as this machine, and yield the environment of its clients."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={PORT}"]
    command += [f"--num-cpus={len(os.sched_getaffinity(0))}", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    command += [f"--dashboard-port={JOBS_PORT}", "--object-store-memory=100000000"]
    path = os.pathsep.join(
        filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
    )  # its workers import this package
    environment = {**os.environ, "PYTHONPATH": path, "HAWOR_ENGINE": "ray", "RAY_ADDRESS": f"127.0.0.1:{PORT}"}
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        ask = [sys.executable, "-m", "ray.scripts.scripts", "status", f"--address=127.0.0.1:{PORT}"]
        while subprocess.run(ask, capture_output=True, check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise RuntimeError("the Ray head did not come up within two minutes")
            time.sleep(1)
        yield environment
    finally:
        head.terminate()
        head.wait(60)


def _convert_seconds(raw: Path, output: Path, environment: dict[str, str]) -> float:
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "hawor_pipeline.cli", "prepare", "--arctic-root", str(raw / "arctic")]
    command += ["--mano-dir", str(raw / "body_models" / "mano"), "--output-dir", str(output)]
    began = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return time.perf_counter() - began


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _nothing(task: int) -> int:
    return task


def _empty_task_seconds(environment: dict[str, str]) -> float:
    """Return the seconds per task of a map over empty tasks, including joining and leaving the cluster."""
    code = "import engines; from hawor_pipeline.workers.engine import map_on_ray; import time; "
    code += f"began = time.perf_counter(); list(map_on_ray(engines._nothing, list(range({EMPTY_TASKS})), int)); "
    code += "print(time.perf_counter() - began)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]) / EMPTY_TASKS


def measure_engines(quick: bool) -> list[Row]:
    """Measure interleaved rounds on one sample; each value is from one round."""
    from hawor_pipeline.sample.spec import SampleSpec
    from hawor_pipeline.sample.write import ensure_sample

    ratios, extra = [], []
    with tempfile.TemporaryDirectory() as directory, cluster() as on_ray:
        raw = Path(directory) / "raw"
        frames = 10 if quick else 30
        ensure_sample(raw, SampleSpec(subjects=SUBJECTS, sequences_per_subject=2, frames=frames, image_scale=0.25))
        by_processes = {**os.environ, "HAWOR_ENGINE": "multiprocess"}
        for _ in range(2 if quick else 5):
            alone = _convert_seconds(raw, Path(directory) / "processes", by_processes)
            spread = _convert_seconds(raw, Path(directory) / "ray", on_ray)
            ratios.append(spread / alone)
            extra.append(spread - alone)
        same = _digest(Path(directory) / "processes") == _digest(Path(directory) / "ray")
        empty = [_empty_task_seconds(on_ray) for _ in range(2 if quick else 3)]
    return [
        from_rounds("ray_over_multiprocess", ratios, "ratio of seconds", 1.3, "lower"),
        from_rounds("ray_extra_seconds", extra, "s, the same runs", 10.0, "lower"),
        from_rounds("ray_empty_task", empty, f"s per task, {EMPTY_TASKS} tasks and joining", 0.1, "lower"),
        Row("ray_same_bytes", float(same), "1 is yes", 1.0, "higher", (float(same), float(same))),
    ]


def measure_rate(quick: bool) -> list[Row]:
    """Return the processor time of an image of ARCTIC's size with both hands visible, per way of decoding."""
    rows = []
    with tempfile.TemporaryDirectory() as directory, Workers(1) as workers:
        base, root = Path(directory) / "base", Path(directory) / "raw"
        images = paint(base, make_base(base), "images")
        (name,) = write_source(base, root, images, COPIES, 1)
        count = COPIES * len(images.jpegs)
        assert len(images.jpegs) == 9 * len(MOMENTS)
        for way, decoding in DECODING.items():
            jobs = [Job(root, name, Path(directory) / way / str(n), decoding, True) for n in range(3 if quick else 6)]
            workers.run(warm_up, [[jobs[0]]])
            times = [1e3 * workers.run(convert, [[job]]).cpu_s / count for job in jobs[1:]]
            rows.append(from_rounds(f"picture_{way}_ms", times, "ms of one core, visibility included", 30.0, "lower"))
    return rows


def print_arctic(rows: list[Row]) -> None:
    """Print the model: sequences of equal length, each on one worker, and workers without interference."""
    values = {row.name: row.value for row in rows}
    for row in (row for row in rows if row.name.startswith("picture_")):
        print(f"\nall of ARCTIC, {row.name}:")
        for workers in WORKERS:
            share = math.ceil(SEQUENCES / workers) / SEQUENCES
            hours = IMAGES * row.value / 1e3 * share / 3600 + values["ray_empty_task"] * SEQUENCES / 3600
            print(f"  {workers:3} workers: {hours:6.2f} h, {hours * workers:5.1f} worker hours")


def measure(quick: bool) -> list[Row]:
    """Measure all rows and print the estimate for all of ARCTIC."""
    rows = measure_engines(quick) + measure_rate(quick)
    print_arctic(rows)
    return rows


if __name__ == "__main__":
    run(measure, "Conversion on Ray against processes of one machine, and the estimate for all of ARCTIC")
