"""The command line: `hawor-pipeline COMMAND`. Parses words, calls one function per command, prints what came out.

Exit codes: 0 done; 1 damaged data, full disk, failed run; 2 wrong usage, configuration, missing path, unknown subject.
Heavy packages are imported by the command that needs them.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hawor_pipeline import __version__
from hawor_pipeline.errors import ConfigError, HaworError
from hawor_pipeline.paths import DataPaths, config_dir, experiment_file

UI_ADDRESS = "127.0.0.1"
UI_PORT = 3000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except HaworError as error:
        print(f"hawor-pipeline {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"hawor-pipeline {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"hawor-pipeline {arguments.command}: interrupted; finished work is kept", file=sys.stderr)
        return 128 + signal.SIGINT


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = argparse.ArgumentParser(prog="hawor-pipeline", description=__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_demo,
        _add_ui,
        _add_sample,
        _add_prepare,
        _add_create_config,
        _add_train,
        _add_evaluate,
        _add_report,
    ):
        add(commands)
    _add_doctor(commands)
    return parser


# --- demo, ui ---------------------------------------------------------------------------------------------------------


def _add_demo(commands) -> None:
    parser = commands.add_parser(
        "demo", help="run the whole pipeline on the built-in sample and print the report's path"
    )
    parser.set_defaults(run=_demo)


def _dagster_environment() -> dict[str, str]:
    environment = dict(os.environ, PYTHONWARNINGS="ignore")
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    bin_dir = str(Path(sys.executable).parent)
    environment["PATH"] = f"{bin_dir}{os.pathsep}{environment.get('PATH', '')}"
    return environment


def _demo(_: argparse.Namespace) -> int:
    preset = config_dir() / "jobs" / "demo.yaml"
    module, job = "hawor_pipeline.definitions", "full_pipeline_job"
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", module, "-j", job, "-c", str(preset)]
    environment = _dagster_environment()
    for name in ("ARCTIC_ROOT", "MANO_DIR"):  # the demo is always of the built-in sample
        environment.pop(name, None)
    code = subprocess.run(command, env=environment, check=False).returncode
    if code != 0:
        print(
            "The run failed; the message above says why. Run the same command again: finished work is reused, and an "
            "interrupted training resumes.",
            file=sys.stderr,
        )
        return 1
    handoff = json.loads((DataPaths.default().handoff / "final_report.json").read_text())
    _print_report(Path(handoff["path"]))
    return 0


def _print_report(page: Path) -> None:
    """The main numbers of a report and where it is."""
    report = json.loads(page.with_name("report.json").read_text())
    if report["source"] == "synthetic":
        print("\nSYNTHETIC SAMPLE: rendered hands made by this project; the numbers say nothing about real pictures.")
    for metric in ("mpjpe_mm", "pa_mpjpe_mm"):
        floors = ", ".join(
            f"{name} {value:.1f}" for name, value in report["floors"][metric].items() if value is not None
        )
        print(f"{metric:14} {report['metrics'][metric]['value']:7.1f}   floors: {floors}")
    for metric in ("pck_3d_15mm", "pck_auc", "mpjpe_crop_px"):
        print(f"{metric:14} {report['metrics'][metric]['value']:7.3f}")
    print(f"Report: {page}")


def _add_ui(commands) -> None:
    parser = commands.add_parser("ui", help="Dagster's web UI with its daemon")
    parser.add_argument("--host", default=UI_ADDRESS)
    parser.add_argument("--port", type=int, default=UI_PORT)
    parser.set_defaults(run=_ui)


def _ui(arguments: argparse.Namespace) -> int:
    if not Path("dagster.yaml").is_file():
        raise ConfigError(f"dagster.yaml not found in {Path.cwd()}; start the UI from the project's directory")
    environment = _dagster_environment()
    environment["DAGSTER_HOME"] = str(Path.cwd())
    Path("data/dagster").mkdir(parents=True, exist_ok=True)
    print(f"Dagster's web UI: http://{arguments.host}:{arguments.port}  (stop with Ctrl-C)", flush=True)
    command = [sys.executable, "-m", "dagster", "dev", "-h", arguments.host, "-p", str(arguments.port)]
    os.execve(sys.executable, command, environment)


# --- data -------------------------------------------------------------------------------------------------------------


def _add_sample(commands) -> None:
    parser = commands.add_parser("sample-data", help="write the built-in synthetic sample in ARCTIC's raw layout")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--subjects", nargs="+", metavar="s01")
    parser.add_argument("--sequences-per-subject", type=int, metavar="N")
    parser.add_argument("--frames", type=int, metavar="N")
    parser.add_argument("--views", type=int, nargs="+", metavar="V", help="0 is the egocentric view, 1..8 are static")
    parser.add_argument("--image-source", choices=["images", "cropped_images"])
    parser.add_argument("--image-scale", type=float, metavar="F", help="scales image_size and K; `images` only")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--tempo", type=float, help="speed of all motion; 1 is natural")
    parser.add_argument("--num-workers", type=int, metavar="N")
    parser.set_defaults(run=_sample)


def _sample(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.data.sample import SampleSpec, ensure_sample

    names = ("subjects", "sequences_per_subject", "frames", "views", "image_source", "image_scale", "seed", "tempo")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for name in ("subjects", "views"):
        if name in given:
            given[name] = tuple(given[name])
    result = ensure_sample(
        arguments.root, SampleSpec(**given), workers=arguments.num_workers, progress=_progress("sequence")
    )
    _print_result(result)
    return 0


def _add_prepare(commands) -> None:
    parser = commands.add_parser("prepare", help="convert raw ARCTIC sequences to training shards")
    parser.add_argument("--arctic-root", type=Path, required=True, help="any folder level of ARCTIC's download")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--subjects", nargs="+", metavar="s01")
    parser.add_argument("--sequences", nargs="+", metavar="NAME")
    parser.add_argument("--max-sequences-per-subject", type=int, metavar="N")
    parser.add_argument("--target-resolution", type=int, nargs=2, metavar=("H", "W"))
    parser.add_argument("--num-workers", type=int, metavar="N")
    parser.add_argument("--views", type=int, nargs="+", metavar="V")
    parser.add_argument("--mano-dir", type=Path)
    parser.set_defaults(run=_prepare)


def _prepare(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.data.prepare import prepare

    names = ("sequences", "max_sequences_per_subject", "target_resolution", "views")
    totals = prepare(
        arguments.arctic_root,
        arguments.output_dir,
        settings={name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None},
        subjects=arguments.subjects,
        mano_dir=arguments.mano_dir,
        workers=arguments.num_workers,
        progress=_progress("sequence"),
    )
    print(json.dumps(totals, indent=2))
    return 0


# --- training ---------------------------------------------------------------------------------------------------------


def _add_create_config(commands) -> None:
    parser = commands.add_parser("create-config", help="write a training configuration with every key explained")
    parser.add_argument("path", type=Path)
    parser.add_argument("--experiment", metavar="NAME", help="start from a shipped experiment")
    parser.set_defaults(run=_create_config)


def _create_config(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.config import TrainingConfig, commented_yaml, load_config
    from hawor_pipeline.provenance import atomic_write_text

    config = load_config(experiment_file(arguments.experiment)) if arguments.experiment else TrainingConfig()
    if arguments.path.exists():
        raise ConfigError(f"{arguments.path} exists already; choose another path or remove it")
    atomic_write_text(arguments.path, commented_yaml(config))
    print(f"wrote {arguments.path}; train with: hawor-pipeline train --config {arguments.path}")
    return 0


def _add_train(commands) -> None:
    parser = commands.add_parser("train", help="train a network; an interrupted run resumes")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend")
    parser.add_argument("--resume", default="auto", metavar="auto|PATH")
    parser.add_argument("--val-subjects", nargs="+", metavar="s05")
    parser.add_argument("--val-fraction", type=float, metavar="F")
    parser.add_argument("--from-scratch", action="store_true", help="allow a huge backbone without pretrained weights")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.config import load_config
    from hawor_pipeline.training.launch import train

    config = load_config(arguments.config, _overrides(arguments))
    result, code = train(config, resume=arguments.resume)
    if result is None:
        print("stopped; the checkpoint is kept, and the same command continues", file=sys.stderr)
    else:
        _print_result(result)
    return code


def _overrides(arguments: argparse.Namespace) -> dict:
    from hawor_pipeline.config import parse_value

    overrides = {}
    for item in arguments.set:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"--set {item!r}: expected KEY=VALUE, such as learning_rate=1e-4")
        overrides[key] = parse_value(text)
    if arguments.val_subjects:
        overrides["val_subjects"] = arguments.val_subjects
    if arguments.val_fraction is not None:
        overrides["val_fraction"] = arguments.val_fraction
    if arguments.from_scratch:
        overrides["from_scratch"] = True
    return overrides


# --- results ----------------------------------------------------------------------------------------------------------


def _add_evaluate(commands) -> None:
    parser = commands.add_parser("evaluate", help="evaluate a checkpoint on shards and write the metric tables")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a shards directory")
    parser.add_argument("--output", type=Path, required=True, help="a metrics directory")
    parser.add_argument("--subjects", nargs="+", metavar="s05", help="default: the validation subjects of the protocol")
    parser.add_argument("--mano-dir", type=Path)
    parser.add_argument("--protocol", default="arctic-all-val", metavar="NAME")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--run-id", metavar="NAME", help="of the tables; default: the name of the run's folder")
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.core.mano import find_mano
    from hawor_pipeline.data.shards import shards_version
    from hawor_pipeline.data.splits import VALIDATION_SUBJECTS
    from hawor_pipeline.evaluation.evaluate import evaluate_checkpoint

    mano = arguments.mano_dir or os.environ.get("MANO_DIR") or DataPaths.default().sample / "body_models" / "mano"
    find_mano(mano, "right")
    run = arguments.checkpoint.resolve().parent.parent
    curves = run / "training.parquet"
    result = evaluate_checkpoint(
        arguments.checkpoint,
        arguments.data,
        mano,
        arguments.output,
        run_id=arguments.run_id or (run.name if curves.is_file() else f"checkpoint-{arguments.checkpoint.stem}"),
        dataset_version=shards_version(arguments.data),
        subjects=arguments.subjects or list(VALIDATION_SUBJECTS),
        protocol=arguments.protocol,
        device=arguments.device,
        training_table=curves if curves.is_file() else None,
    )
    _print_result(result)
    for name, value in result.info["metrics"].items():
        print(f"  {name}: {'not available' if value is None else format(value, '.4g')}")
    return 0


def _add_report(commands) -> None:
    parser = commands.add_parser("report", help="write the report of a run and print its path and main numbers")
    parser.add_argument("--run", type=Path, required=True, help="the run's folder under data/runs")
    parser.add_argument("--metrics", type=Path, help="metrics directory (default: the project's)")
    parser.add_argument("--output", type=Path, help="where the report goes (default: the project's)")
    parser.add_argument("--data-card-dir", type=Path, help="folder of data_card.md (default: the project's, if there)")
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.reporting.report import build_report
    from hawor_pipeline.reporting.results import RunResults

    paths = DataPaths.default()
    metrics, output = arguments.metrics or paths.metrics, arguments.output or paths.reports
    card = arguments.data_card_dir or paths.metadata(RunResults(metrics, arguments.run.name).source)
    metadata = card if (card / "data_card.md").is_file() else None
    _print_report(build_report(arguments.run, metrics, output, metadata_dir=metadata).path)
    return 0


def _add_doctor(commands) -> None:
    parser = commands.add_parser("doctor", help="what this machine has, what is missing, and what to do")
    parser.set_defaults(run=_doctor)


def _doctor(_: argparse.Namespace) -> int:
    from hawor_pipeline.doctor import examine, render

    findings = examine()
    print(render(findings))
    return 1 if any(finding.required and not finding.ok for finding in findings) else 0


def _progress(what: str):
    """A progress callback: one line that is rewritten on a terminal, a plain line per tenth elsewhere."""
    began = time.monotonic()
    terminal = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        left = (time.monotonic() - began) / max(done, 1) * (total - done)
        if terminal:
            print(f"\r{what} {done} of {total}, about {left:.0f} s left ", end="", file=sys.stderr, flush=True)
            if done == total:
                print(file=sys.stderr)
        elif done == total or done % max(total // 10, 1) == 0:
            print(f"{what} {done} of {total}, about {left:.0f} s left", file=sys.stderr, flush=True)

    return progress


def _print_result(result) -> None:
    state = "reused" if result.reused else "done"
    print(f"{state}: {result.path} ({result.why})")
    for name, value in result.info.items():
        if isinstance(value, (str, int, float, bool)):
            print(f"  {name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
