"""What a Ray cluster costs over processes of one machine: the same conversion, on the same cores, by both engines."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from _measure import Row, from_rounds, run

PORT, JOBS_PORT = 6393, 8293
SUBJECTS = ("s01", "s02", "s04", "s05")


@contextmanager
def cluster():
    """A Ray head with as many cores as this machine; yields the environment of its users."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={PORT}"]
    command += [f"--num-cpus={len(os.sched_getaffinity(0))}", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    command += [f"--dashboard-port={JOBS_PORT}", "--object-store-memory=100000000"]
    head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {**os.environ, "HAWOR_ENGINE": "ray", "RAY_ADDRESS": f"127.0.0.1:{PORT}"}
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


def measure(quick: bool) -> list[Row]:
    """Interleaved rounds on one sample; each value is from one round."""
    from hawor_pipeline.data.sample import SampleSpec, ensure_sample

    ratios = []
    with tempfile.TemporaryDirectory() as directory, cluster() as on_ray:
        raw = Path(directory) / "raw"
        frames = 10 if quick else 30
        ensure_sample(raw, SampleSpec(subjects=SUBJECTS, sequences_per_subject=2, frames=frames, image_scale=0.25))
        by_processes = {**os.environ, "HAWOR_ENGINE": "multiprocess"}
        for _ in range(2 if quick else 5):
            alone = _convert_seconds(raw, Path(directory) / "processes", by_processes)
            ratios.append(_convert_seconds(raw, Path(directory) / "ray", on_ray) / alone)
        same = _digest(Path(directory) / "processes") == _digest(Path(directory) / "ray")
    return [
        from_rounds("ray_over_multiprocess", ratios, "ratio of seconds", 1.3, "lower"),
        Row("ray_same_bytes", float(same), "1 is yes", 1.0, "higher", (float(same), float(same))),
    ]


if __name__ == "__main__":
    run(measure, "Conversion on Ray against processes of one machine")
