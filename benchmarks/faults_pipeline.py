"""Faults injected into the whole pipeline: kills, damaged files, a full disk, an unavailable database.

    python benchmarks/faults_pipeline.py [--faults 50] [--quick] [--json PATH]

One project runs without faults; another meets several faults in every run but its last: files are damaged before it,
steps die or lose the database during it, and one step is ended by a fault. A fault counts if it hit. The benchmark also
counts violations: lost or duplicated samples, unfinished runs, occupied pool slots, remaining processes, files that
differ.
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
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import yaml
from _measure import Row, machine

from hawor_pipeline.provenance import sha256_file

REPOSITORY = Path(__file__).resolve().parents[1]
MADE = {  # outputs of the steps, in the order in which they start
    "raw_arctic_sequences": "raw/synthetic/s0*",
    "subject_shards": "shards/synthetic/s0[1-5]",
    "dataset_metadata": "metadata/synthetic",
    "baseline_metrics": "metrics/_stages/baselines-*",
    "quality_stats": "quality/*",
    "trained_checkpoint": "runs/*",
    "exported_model": "exports/*",
    "evaluation_metrics": "metrics/_stages/[!b]*",
    "final_report": "reports/*",
}
WHOLE_CAMPAIGN = 50  # faults; enough for each kind of end to occur
DISK_MB = 600  # space for one project; the rest is filled to make the disk full
LOCKED_S = 8.0
FULL_S = 120.0
LATEST_S = 3.0  # after a step started
RUN_TIMEOUT_S = 1200.0


class Project:
    """Folder in which the smoke preset of the main job runs."""

    def __init__(self, folder: Path):
        self.folder, self.data = folder, folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "dagster.yaml", folder)
        self.preset = folder / "preset.yaml"
        preset = yaml.safe_load((REPOSITORY / "configs" / "jobs" / "smoke.yaml").read_text())
        preset["loggers"]["console"]["config"]["log_level"] = "DEBUG"  # process ids of steps are logged at this level
        self.preset.write_text(yaml.safe_dump(preset))
        self.log = folder / "run.log"

    def start(self) -> subprocess.Popen:
        """Start the job with a new log."""
        dropped = ("DAGSTER_HOME", "MANO_DIR", "HAWOR_DATA_DIR", "HAWOR_DAGSTER_RUN_ID")
        given = os.environ.items()
        environment = {name: value for name, value in given if name not in dropped and not name.endswith("_ROOT")}
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "job", "execute", "-j", "full_pipeline_job"]
        command += ["-m", "hawor_pipeline.definitions", "-c", str(self.preset)]
        with open(self.log, "w") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self) -> int:
        """Run the job to its end."""
        return self.start().wait(RUN_TIMEOUT_S)

    def step_pid(self, step: str) -> int | None:
        """Return the process id of a step that has started in the current run."""
        found = re.findall(rf" - (\d+) - {step} - STEP_START ", self.log.read_text(errors="replace"))
        return int(found[-1]) if found else None

    def forget(self, step: str) -> None:
        """Remove the outputs of a step, so that it runs again."""
        for path in self.data.glob(MADE[step]):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def kill(pid: int | None, number: int = signal.SIGKILL) -> bool:
    """Send a signal to a process; return False if it has ended."""
    try:
        if pid is None or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        os.kill(pid, number)
        return True
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def kill_worker(project: Project, process: subprocess.Popen, step: str) -> bool:
    """Kill the main process of the run; its steps become orphans."""
    return kill(process.pid)


def kill_step(project: Project, process: subprocess.Popen, step: str) -> bool:
    """Kill the process of the step; the run continues and retries the step."""
    return kill(project.step_pid(step))


def kill_training(project: Project, process: subprocess.Popen, step: str) -> bool:
    """Kill the training process if there is one, otherwise the step."""
    training = [p for p in family(process) if "training_child" in " ".join(p.cmdline())]
    return kill(training[0].pid if training else project.step_pid(step))


def kill_everything(project: Project, process: subprocess.Popen, step: str) -> bool:
    """Kill all processes at once, as in a reboot."""
    hit = [kill(member.pid) for member in [psutil.Process(process.pid), *family(process)]]
    return any(hit)


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes that a run has started."""
    return psutil.Process(process.pid).children(recursive=True)


def ask_to_stop(project: Project, process: subprocess.Popen, step: str) -> bool:
    """Send SIGTERM, as CI and schedulers do."""
    return kill(process.pid, signal.SIGTERM)


def lock_database(project: Project, process: subprocess.Popen, step: str) -> bool:
    """Make the databases of the instance unavailable for a while."""
    files = [*project.data.glob("dagster/history/*.db"), project.data / "dagster/history/runs/index.db"]
    held = [sqlite3.connect(file, timeout=60) for file in files]
    for connection in held:
        connection.execute("BEGIN EXCLUSIVE")
    time.sleep(LOCKED_S)
    for connection in held:
        connection.close()
    return True


def fill_disk(project: Project, process: subprocess.Popen, step: str) -> bool:
    """Fill the project's file system until the run has ended."""
    filler = project.folder / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 1_000_000)
    with suppress(subprocess.TimeoutExpired):
        process.wait(FULL_S)
    filler.unlink()
    return True


def damage(project: Project, pattern: str, rng: random.Random) -> bool:
    """Truncate a file of the pipeline and keep a copy of the original; return False if there is none."""
    files = sorted(project.data.glob(pattern))
    if not files:
        return False
    file = rng.choice(files)
    shutil.copy(file, project.folder / "whole")
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    (project.folder / "damaged.txt").write_text(str(file))
    return True


Fault = Callable[[Project, subprocess.Popen, str], bool]  # returns whether it hit
GOES_ON: dict[str, Fault] = {
    "step killed": kill_step,
    "training killed": kill_training,
    "database locked": lock_database,
}
ENDS: dict[str, Fault] = {
    "worker killed": kill_worker,
    "everything killed": kill_everything,
    "asked to stop": ask_to_stop,
    "disk full": fill_disk,
}
BEFORE = {  # damaged before a run
    "shard damaged": "shards/synthetic/s0*/*/images.arrow",
    "table damaged": "metrics/samples/*/*.parquet",
    "raw file damaged": "sample/arctic/raw_seqs/s0*/*.mano.npy",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Faults of one run: damaged files before it, faults by step that it survives, and the step and kind of its end."""

    before: tuple[str, ...]
    during: dict[str, str]
    end_step: str
    end: str

    @classmethod
    def draw(cls, number: int, end: str, rng: random.Random) -> "Plan":
        """Create the plan of run `number` with the given end; steps are drawn at random."""
        if number % 4 == 3:  # rejected at once, so no other fault hits this run
            return cls(("raw file damaged",), {}, "", "")
        before = (tuple(BEFORE)[:2], (), ("shard damaged",))[number % 4]
        last = rng.randrange(3, len(MADE))
        during = {step: rng.choice(("step killed", "step killed", "database locked")) for step in list(MADE)[:last]}
        if "trained_checkpoint" in during:
            during["trained_checkpoint"] = ("training killed", "step killed")[number % 2]
        return cls(before, during, list(MADE)[last], end)


def run_with_faults(project: Project, plan: Plan, resumed: str, rng: random.Random) -> list[str]:
    """Remove outputs, start the job and inject the faults; return a word for each fault that hit.

    Partial outputs of the step `resumed` from the previous run are kept, so that it resumes from there.
    """
    hit = [kind for kind in plan.before if damage(project, BEFORE[kind], rng)]
    if "raw file damaged" in plan.before:
        return hit + _refused(project)
    for step in takewhile(lambda step: step != resumed, MADE):
        if not (plan.before and step == "subject_shards"):  # a damaged shard must be detected, not removed
            project.forget(step)
    process, waiting = project.start(), {**plan.during, plan.end_step: plan.end}
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while waiting and process.poll() is None and time.monotonic() < deadline:
        for step in [step for step in waiting if project.step_pid(step) is not None]:
            time.sleep(rng.uniform(0.0, LATEST_S))
            kind = waiting.pop(step)
            if process.poll() is None and {**GOES_ON, **ENDS}[kind](project, process, step):
                hit.append(f"{kind} ({step})")
        time.sleep(0.05)
    process.wait(RUN_TIMEOUT_S)
    return hit


def _refused(project: Project) -> list[str]:
    """Run with a damaged raw file, which ends the run, then restore the file, as the message requests."""
    if project.run() == 0:
        raise AssertionError(f"a damaged file passed: {(project.folder / 'damaged.txt').read_text()}")
    shutil.copy(project.folder / "whole", (project.folder / "damaged.txt").read_text())
    return []


def samples(project: Project) -> Counter:
    """Count every sample of the shards and of the metric tables."""
    found: Counter = Counter()
    patterns = {"shards": "shards/synthetic/*/*/annotations.parquet", "metrics": "metrics/[ps]*s/run_id=*/*.parquet"}
    for kind, pattern in patterns.items():
        for file in sorted(project.data.glob(pattern)):
            where = kind if kind == "shards" else file.parent.parent.name + "/" + file.parent.name
            names = pq.read_table(file, columns=["sample_id"], partitioning=None)["sample_id"].to_pylist()
            found.update((where, name) for name in names)
    return found


def shard_bytes(project: Project) -> dict[str, str]:
    """Return the hash of every file of the shards."""
    root = project.data / "shards"
    return {str(file.relative_to(root)): sha256_file(file) for file in sorted(root.rglob("*")) if file.is_file()}


def left_over(project: Project) -> dict[str, int]:
    """Count unfinished runs, occupied slots and processes after everything has ended."""
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
    """Mount a separate file system for the project, if this user may mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0


def campaign(count: int, seed: int, folder: Path, minutes: float) -> tuple[list[Row], list[str]]:
    """Run the campaign within the given minutes; return the rows and a word per fault."""
    rng, lines = random.Random(seed), list[str]()
    deadline = time.monotonic() + 60 * minutes
    reference = Project(folder / "reference")
    if reference.run() != 0:
        raise AssertionError(f"the run without faults failed: {reference.log.read_text()[-3000:]}")
    mounted = small_disk(folder / "faulty")
    faulty = Project(folder / "faulty")
    shutil.copytree(reference.data, faulty.data)
    try:
        ends = deque(name for name in ENDS if mounted or name != "disk full")
        number, misses, resumed = 0, 0, ""
        while len(lines) < count and time.monotonic() < deadline:
            began = time.monotonic()
            plan = Plan.draw(number, ends[0], rng)
            hit = run_with_faults(faulty, plan, resumed, rng)
            if plan.end:
                misses = 0 if any(word.startswith(f"{plan.end} (") for word in hit) else misses + 1
                if misses in (0, 2):  # kinds take turns, and one that did not hit gets a second run
                    ends.rotate(-1)
                    misses = 0
            number, lines, resumed = number + 1, lines + hit, plan.end_step or resumed
            print(f"run {number}, {time.monotonic() - began:.0f} s: {', '.join(hit)}", flush=True)
        print(f"{len(lines)} of {count} faults in {number} runs", flush=True)
        code = faulty.run()
        if code != 0:
            raise AssertionError(f"the last run, without a fault, failed: {faulty.log.read_text()[-3000:]}")
        rows = _judge(reference, faulty, len(lines), count)
        kinds = sum(any(line.startswith(f"{end} (") for line in lines) for end in ends)
        wanted = len(ends) if count >= WHOLE_CAMPAIGN else 1
        return [*rows, Row("faults_kinds_of_end", kinds, "kinds", wanted, "higher", (kinds, kinds))], lines
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
    parser.add_argument("--faults", type=int, help="number of faults (default 50, with --quick 10)")
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
