"""Runs of the toy location in separate processes, as CI starts them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
LOCATION = "hawor_pipeline_tests.orchestration.toy_location"


class ToyProject:
    """Folder with the project's instance settings in which toy jobs run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.mark = folder / "mark"
        self.started: list[subprocess.Popen] = []
        shutil.copy(REPOSITORY / "dagster.yaml", folder)

    def command(self, job: str, config: dict | None = None) -> list[str]:
        """Return the command `dagster job execute` of a toy job."""
        command = [sys.executable, "-m", "dagster", "job", "execute", "-m", LOCATION, "-j", job]
        if config is None:
            return command
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        return [*command, "-c", str(path)]

    def environment(self, seconds: float = 0.0, **more: str) -> dict[str, str]:
        """Return an environment without any variable of this project."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER_", "HAWOR_"))}
        own = {"TOY_MARK": str(self.mark), "TOY_SECONDS": str(seconds), "PYTHONPATH": str(REPOSITORY)}
        return {**kept, **own, "PYTHONWARNINGS": "ignore", **more}

    def run(self, job: str, config: dict | None = None, **more: str) -> subprocess.CompletedProcess:
        """Execute a job to its end."""
        return subprocess.run(
            self.command(job, config),
            cwd=self.folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=280,
        )

    def behave(self, behaviour: str, times: int = 1, **more: str) -> subprocess.CompletedProcess:
        """Execute the moody job with one behaviour."""
        config = {"behaviour": behaviour, "times": times}
        return self.run("moody_job", {"ops": {"moody": {"config": config}}}, **more)

    def start(self, job: str, seconds: float) -> subprocess.Popen:
        """Execute a job in the background, with the signal handling of an interactive shell."""
        process = subprocess.Popen(
            self.command(job),
            cwd=self.folder,
            env=self.environment(seconds),
            stdout=subprocess.DEVNULL,
            stderr=open(self.folder / "background.log", "a"),  # noqa: SIM115 - the child's
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """Kill the remaining background jobs."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def marks(self, kind: str = "") -> list[tuple[str, int, float]]:
        """Return the records of the assets: kind, process id, time; optionally of one kind only."""
        if not self.mark.exists():
            return []
        lines = [line.split() for line in self.mark.read_text().splitlines()]
        return [(name, int(pid), float(when)) for name, pid, when in lines if name == kind or not kind]

    def statuses(self) -> list[str]:
        """Return the status of each run, the newest first."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with dg.DagsterInstance.from_config(str(self.folder)) as instance:
                return [run.status.value for run in instance.get_runs()]
        finally:
            os.chdir(before)

    def taken_slots(self) -> int:
        """Return the slots of the pool `gpu` that are occupied or requested."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with dg.DagsterInstance.from_config(str(self.folder)) as instance:
                info = instance.event_log_storage.get_concurrency_info("gpu")
                return info.active_slot_count + info.pending_step_count
        finally:
            os.chdir(before)
