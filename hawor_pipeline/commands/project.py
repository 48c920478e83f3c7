"""Commands of the whole project: demo, ui, doctor."""

import argparse
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from hawor_pipeline.commands.options import command, option
from hawor_pipeline.commands.printing import print_report
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import DataPaths, config_dir

UI_ADDRESS = "127.0.0.1"
UI_PORT = 3000
TENSORBOARD_PORT = 6006


def _dagster_environment() -> dict[str, str]:
    environment = dict(os.environ, PYTHONWARNINGS="ignore")
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    bin_dir = str(Path(sys.executable).parent)
    environment["PATH"] = f"{bin_dir}{os.pathsep}{environment.get('PATH', '')}"
    return environment


@command("demo", "run the whole pipeline on the built-in sample")
def _demo(_: argparse.Namespace) -> int:
    preset = config_dir() / "jobs" / "demo.yaml"
    module, job = "hawor_pipeline.definitions", "full_pipeline_job"
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", module, "-j", job, "-c", str(preset)]
    environment = _dagster_environment()
    for name in ("ARCTIC_ROOT", "MANO_DIR"):  # the demo always runs on the built-in sample
        environment.pop(name, None)
    code = subprocess.run(command, env=environment, check=False).returncode
    if code != 0:
        print(
            "The run failed, see the message above. Run the same command again: finished work is reused, and "
            "interrupted training resumes.",
            file=sys.stderr,
        )
        return 1
    handoff = json.loads((DataPaths.default().handoff / "final_report.json").read_text())
    print_report(Path(handoff["path"]))
    return 0


@command("ui", "start Dagster's web UI with its daemon")
@option("--host", default=UI_ADDRESS, help=f"default: {UI_ADDRESS}")
@option("--port", type=int, default=UI_PORT, help=f"default: {UI_PORT}")
@option("--reports-port", type=int, help="port of the reports (default: --port + 1)")
@option(
    "--tensorboard-port",
    type=int,
    default=TENSORBOARD_PORT,
    help=f"0 starts no TensorBoard (default: {TENSORBOARD_PORT})",
)
def _ui(arguments: argparse.Namespace) -> int:
    if not Path("dagster.yaml").is_file():
        raise ConfigError(f"dagster.yaml not found in {Path.cwd()}; start the UI from the project's directory")
    from hawor_pipeline.orchestration import companions

    environment = _dagster_environment()
    environment["DAGSTER_HOME"] = str(Path.cwd())
    Path("data/dagster").mkdir(parents=True, exist_ok=True)
    host, paths = arguments.host, DataPaths.default()
    with ExitStack() as stack:
        pages = companions.reports_served(paths.reports, host, arguments.reports_port or arguments.port + 1)
        environment[companions.REPORTS_VARIABLE] = stack.enter_context(pages)
        if arguments.tensorboard_port:
            curves = companions.tensorboard_served(paths.runs, host, arguments.tensorboard_port)
            environment[companions.TENSORBOARD_VARIABLE] = stack.enter_context(curves) or ""
        print(f"Dagster's web UI: http://{host}:{arguments.port}  (stop with Ctrl-C)", flush=True)
        print(f"Reports:          {environment[companions.REPORTS_VARIABLE]}", flush=True)
        return _until_stopped(
            [sys.executable, "-m", "dagster", "dev", "-h", host, "-p", str(arguments.port)], environment
        )


def _until_stopped(command: list[str], environment: dict[str, str]) -> int:
    """Run a server until it ends; Ctrl-C reaches it from the terminal, SIGTERM is passed on."""
    # A background job of a script ignores SIGINT, and the server would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(signal.SIGINT))
    return max(process.wait(), 0)


@command("doctor", "check this machine: what is present, what is missing, what to do")
def _doctor(_: argparse.Namespace) -> int:
    from hawor_pipeline.doctor import examine, render

    diagnoses = examine()
    print(render(diagnoses))
    return 1 if any(each.required and not each.ok for each in diagnoses) else 0
