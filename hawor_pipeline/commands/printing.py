"""Output of commands: progress, the result of a stage, the main numbers of a report."""

import json
import sys
import time
from pathlib import Path


def show_progress(unit: str):
    """Return a progress callback: one line that is rewritten on a terminal, a plain line per tenth elsewhere."""
    began = time.monotonic()
    terminal = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        left = (time.monotonic() - began) / max(done, 1) * (total - done)
        if terminal:
            print(f"\r{unit} {done} of {total}, about {left:.0f} s left ", end="", file=sys.stderr, flush=True)
            if done == total:
                print(file=sys.stderr)
        elif done == total or done % max(total // 10, 1) == 0:
            print(f"{unit} {done} of {total}, about {left:.0f} s left", file=sys.stderr, flush=True)

    return progress


def print_result(result) -> None:
    """Print where the result of a stage is, whether it was reused, and its main facts."""
    state = "reused" if result.reused else "done"
    print(f"{state}: {result.path} ({result.why})")
    for name, value in result.info.items():
        if isinstance(value, (str, int, float, bool)):
            print(f"  {name}: {value}")


def print_report(page: Path) -> None:
    """Print the main numbers of a report and its path."""
    report = json.loads(page.with_name("report.json").read_text())
    if report["source"] == "synthetic":
        print("\nSYNTHETIC SAMPLE: rendered hands of this project; the numbers do not hold for real images.")
    for metric in ("mpjpe_mm", "pa_mpjpe_mm"):
        line = f"{metric:14} {report['metrics'][metric]['value']:7.1f}"
        for group, label in (("floors", "baselines"), ("rivals", "rivals")):
            known = [f"{name} {value:.1f}" for name, value in report[group][metric].items() if value is not None]
            line += f"   {label}: {', '.join(known)}" if known else ""
        print(line)
    for metric in ("pck_3d_15mm", "pck_auc", "mpjpe_crop_px"):
        print(f"{metric:14} {report['metrics'][metric]['value']:7.3f}")
    print("Baselines ignore the image; the rival `smoothed` is this run's own predictions, smoothed over time.")
    print(f"Report: {page}")
