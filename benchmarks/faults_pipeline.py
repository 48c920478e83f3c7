"""Faults injected over the whole pipeline: kills, damaged files, a full disk, a database that is away.

    python benchmarks/faults_pipeline.py [--faults 50] [--quick] [--json PATH]

One project runs without faults, another meets a fault in every run but its last. Counted is what must not be: lost
or doubled samples, runs left unfinished, pool slots left taken, processes left over, files that differ.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from _measure import Row, machine

from hawor_pipeline.provenance import sha256_file

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = ("raw_arctic_sequences", "subject_shards", "dataset_metadata", "trained_checkpoint", "evaluation_metrics")
DISK_MB = 600  # room for one project; what is free is filled up to make the disk full
LOCKED_S = 8.0
RUN_TIMEOUT_S = 1200.0


class Project:
    """A folder in which the smoke preset of the main job runs."""

    def __init__(self, folder: Path):
        self.folder, self.data = folder, folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "dagster.yaml", folder)
        self.log = folder / "run.log"

    def start(self) -> subprocess.Popen:
        """Start the job; its log is new."""
        dropped = ("DAGSTER_HOME", "ARCTIC_ROOT", "MANO_DIR", "HAWOR_DATA_DIR", "HAWOR_DAGSTER_RUN_ID")
        environment = {name: value for name, value in os.environ.items() if name not in dropped}
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "job", "execute", "-j", "full_pipeline_job"]
        command += ["-m", "hawor_pipeline.definitions", "-c", str(REPOSITORY / "configs" / "jobs" / "smoke.yaml")]
        with open(self.log, "w") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self) -> int:
        """Run the job to its end."""
        return self.start().wait(RUN_TIMEOUT_S)

    def step_pid(self, step: str) -> int | None:
        """Process id of a step that has started in the current run."""
        found = re.search(rf" - (\d+) - {step} - STEP_WORKER_STARTED", self.log.read_text(errors="replace"))
        return int(found.group(1)) if found else None

    def forget(self, step: str) -> None:
        """Remove what a step made, so that it has work to do."""
        made = {
            "raw_arctic_sequences": "raw/synthetic/s0*",
            "subject_shards": "shards/synthetic/s0[1-5]",
            "dataset_metadata": "metadata/synthetic",
            "trained_checkpoint": "runs/*",
            "evaluation_metrics": "metrics/_stages/*",
        }
        for path in self.data.glob(made[step]):
            shutil.rmtree(path)


def kill(pid: int | None, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone already."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_worker(project: Project, process: subprocess.Popen, step: str) -> None:
    """The run's main process dies; its steps are orphans."""
    kill(process.pid)


def kill_step(project: Project, process: subprocess.Popen, step: str) -> None:
    """The process of the step dies; the run goes on and tries the step again."""
    kill(project.step_pid(step))


def kill_training(project: Project, process: subprocess.Popen, step: str) -> None:
    """The training process dies, where there is one; else the step."""
    family = psutil.Process(process.pid).children(recursive=True)
    training = [p.pid for p in family if "training_child" in " ".join(p.cmdline())]
    kill(training[0] if training else project.step_pid(step))


def kill_everything(project: Project, process: subprocess.Popen, step: str) -> None:
    """All processes die at once, as in a reboot."""
    for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        kill(member.pid)


def ask_to_stop(project: Project, process: subprocess.Popen, step: str) -> None:
    """SIGTERM, as CI and schedulers send it."""
    kill(process.pid, signal.SIGTERM)


def lock_database(project: Project, process: subprocess.Popen, step: str) -> None:
    """Nobody reaches the databases of the instance for a while."""
    files = [*project.data.glob("dagster/history/*.db"), project.data / "dagster/history/runs/index.db"]
    held = [sqlite3.connect(file, timeout=60) for file in files]
    for connection in held:
        connection.execute("BEGIN EXCLUSIVE")
    time.sleep(LOCKED_S)
    for connection in held:
        connection.close()


def fill_disk(project: Project, process: subprocess.Popen, step: str) -> None:
    """Nothing is left on the project's file system until the run has ended."""
    filler = project.folder / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 1_000_000)
    with suppress(subprocess.TimeoutExpired):
        process.wait(120)
    filler.unlink()


def damage(project: Project, pattern: str, rng: random.Random) -> Path | None:
    """Cut a file of the pipeline short; returns a copy of the whole one."""
    files = sorted(project.data.glob(pattern))
    if not files:
        return None
    file = rng.choice(files)
    whole = project.folder / "whole"
    shutil.copy(file, whole)
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    (project.folder / "damaged.txt").write_text(str(file))
    return whole


Fault = Callable[[Project, subprocess.Popen, str], None]
DURING: dict[str, Fault] = {
    "worker killed": kill_worker,
    "step killed": kill_step,
    "training killed": kill_training,
    "everything killed": kill_everything,
    "asked to stop": ask_to_stop,
    "database locked": lock_database,
    "disk full": fill_disk,
}
# Damaged before a run; the second entry says whether somebody must put the whole file back, as the message asks.
BEFORE = {
    "shard damaged": ("shards/synthetic/s0*/*/images.arrow", False),
    "table damaged": ("metrics/samples/*/*.parquet", False),
    "raw file damaged": ("sample/arctic/raw_seqs/s0*/*.mano.npy", True),
}


def inject_during(project: Project, fault: Fault, step: str, rng: random.Random) -> None:
    """Give a step work, start the job, and let the fault happen while the step runs."""
    project.forget(step)
    process = project.start()
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while project.step_pid(step) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(rng.uniform(0.0, 3.0))
    if process.poll() is None:
        fault(project, process, step)
    if fault not in (kill_step, kill_training):
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
    if process.poll() is None:  # it goes on by itself; the next run would only wait for it
        process.wait(RUN_TIMEOUT_S)


def inject_before(project: Project, pattern: str, *, put_back: bool, rng: random.Random) -> None:
    """Damage a file and run; where the pipeline cannot mend it by itself it must refuse, and the file is put back."""
    whole = damage(project, pattern, rng)
    code = project.run()
    if put_back and whole is not None:
        if code == 0:
            raise AssertionError(f"a damaged file passed: {(project.folder / 'damaged.txt').read_text()}")
        shutil.copy(whole, (project.folder / "damaged.txt").read_text())


def samples(project: Project) -> Counter:
    """Every sample of the shards and of the metric tables, with how often it is there."""
    found: Counter = Counter()
    patterns = {"shards": "shards/synthetic/*/*/annotations.parquet", "metrics": "metrics/[ps]*s/run_id=*/*.parquet"}
    for kind, pattern in patterns.items():
        for file in sorted(project.data.glob(pattern)):
            where = kind if kind == "shards" else file.parent.parent.name + "/" + file.parent.name
            names = pq.read_table(file, columns=["sample_id"], partitioning=None)["sample_id"].to_pylist()
            found.update((where, name) for name in names)
    return found


def shard_bytes(project: Project) -> dict[str, str]:
    """Hash of every file of the shards."""
    root = project.data / "shards"
    return {str(file.relative_to(root)): sha256_file(file) for file in sorted(root.rglob("*")) if file.is_file()}


def left_over(project: Project) -> dict[str, int]:
    """Unfinished runs, taken slots and processes after everything has ended."""
    import dagster as dg

    os.chdir(project.folder)
    with dg.DagsterInstance.from_config(str(project.folder)) as instance:
        unfinished = [run for run in instance.get_runs() if not run.is_finished and run.status.value != "NOT_STARTED"]
        info = instance.event_log_storage.get_concurrency_info("gpu")
    alive = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            alive += process.pid != os.getpid() and process.cwd().startswith(str(project.folder))
    return {"unfinished": len(unfinished), "slots": info.active_slot_count + info.pending_step_count, "alive": alive}


def small_disk(folder: Path) -> bool:
    """A file system of its own for the project, where this user may mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0


def campaign(count: int, seed: int, folder: Path, minutes: float) -> tuple[list[Row], list[str]]:
    """Run the campaign, but not much longer than that; returns the rows and a line per fault."""
    rng, lines = random.Random(seed), []
    deadline = time.monotonic() + 60 * minutes
    reference = Project(folder / "reference")
    if reference.run() != 0:
        raise AssertionError(f"the run without faults failed: {reference.log.read_text()[-3000:]}")
    mounted = small_disk(folder / "faulty")
    faulty = Project(folder / "faulty")
    shutil.copytree(reference.data, faulty.data)
    try:
        kinds = [name for name in (*DURING, *BEFORE) if mounted or name != "disk full"]
        for number in range(count):
            kind, step = kinds[number % len(kinds)], rng.choice(STEPS)
            if kind == "training killed":
                step = "trained_checkpoint"
            began = time.monotonic()
            if kind in DURING:
                inject_during(faulty, DURING[kind], step, rng)
            else:
                inject_before(faulty, BEFORE[kind][0], put_back=BEFORE[kind][1], rng=rng)
            lines.append(f"{number + 1:3} {kind} ({step if kind in DURING else 'before the run'})")
            print(f"{lines[-1]}: {time.monotonic() - began:.0f} s", flush=True)
            if time.monotonic() > deadline:
                print(f"the time is up after {len(lines)} of {count} faults", flush=True)
                break
        code = faulty.run()
        if code != 0:
            raise AssertionError(f"the last run, without a fault, failed: {faulty.log.read_text()[-3000:]}")
        return _judge(reference, faulty, len(lines), count), lines
    finally:
        os.chdir(REPOSITORY)
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder / "faulty")], check=False)


def _judge(reference: Project, faulty: Project, count: int, goal: int) -> list[Row]:
    expected, found, rest = samples(reference), samples(faulty), left_over(faulty)
    different = set(shard_bytes(reference).items()) ^ set(shard_bytes(faulty).items())
    counts = {
        "faults_lost_samples": sum((expected - found).values()),
        "faults_duplicated_samples": sum((found - expected).values()),
        "faults_shard_files_that_differ": len(different),
        "faults_runs_left_unfinished": rest["unfinished"],
        "faults_leaked_slots": rest["slots"],
        "faults_processes_left": rest["alive"],
    }
    rows = [Row("faults_injected", count, "faults", goal, "higher", (count, count))]
    return rows + [Row(name, n, "count", 0, "lower", (n, n)) for name, n in counts.items()]


def main() -> int:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, help="how many (default 50, with --quick 10)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=18.0, help="inject no more faults after this long")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    count = arguments.faults if arguments.faults is not None else 10 if arguments.quick else 50
    print(f"{machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        rows, _ = campaign(count, arguments.seed, Path(folder), arguments.minutes)
    print(f"\n{'name':36} {'value':>8} {'goal':>8}  unit")
    for row in rows:
        print(f"{row.name:36} {row.value:8} {row.goal:8}  {row.unit}{'' if row.reached else '  MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
