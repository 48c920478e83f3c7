"""What commands print: progress, the result of a stage, the main numbers of a report."""

import json
import sys
import time
from pathlib import Path


def show_progress(what: str):
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


def show_training():
    """A callback for a run's lines of progress: one line that is rewritten on a terminal, few plain lines elsewhere."""
    terminal = sys.stderr.isatty()
    begun: dict[str, float] = {}

    def progress(line: dict) -> None:
        text = _training_line(line, begun)
        if line["kind"] != "step":
            print(("\r\033[K" if terminal else "") + text, file=sys.stderr, flush=True)
        elif terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif line["step"] // max(line["total_steps"] // 20, 1) > begun["tenth"]:
            begun["tenth"] = line["step"] // max(line["total_steps"] // 20, 1)
            print(text, file=sys.stderr, flush=True)

    return progress


def _training_line(line: dict, begun: dict[str, float]) -> str:
    """One line of progress for people; remembers in `begun` where this process began."""
    kind = line["kind"]
    if kind == "start":
        begun.update(step=line["step"], time=time.monotonic(), tenth=-1)
        going_on = f", going on at step {line['step']}" if line["step"] else ""
        return (
            f"{line['total_steps']} steps of {line['frames_per_step']} frames on {line['device']}{going_on}: "
            f"{line['training_clips']} clips train, {line['validation_clips']} validate, "
            f"{line['parameters'] / 1e6:.1f} M weights"
        )
    if kind == "step":
        pace = (time.monotonic() - begun["time"]) / max(line["step"] - begun["step"], 1)
        left = pace * (line["total_steps"] - line["step"])
        loss = "not finite" if line["loss"] is None else f"{line['loss']:.3f}"
        return f"step {line['step']} of {line['total_steps']}, loss {loss}, about {left / 60:.1f} min left"
    if kind == "validation":
        found = {name: value for name, value in line.items() if name.startswith("val/") and name.count("/") == 1}
        shown = ", ".join(f"{name.removeprefix('val/')} {value:.2f}" for name, value in sorted(found.items()))
        return f"validation at step {line['step']}: {shown}"
    if kind == "end":
        return f"{line['status']} at step {line['step']} of {line['total_steps']} ({line['ended_by']})"
    return str(line.get("message", line))


def print_result(result) -> None:
    state = "reused" if result.reused else "done"
    print(f"{state}: {result.path} ({result.why})")
    for name, value in result.info.items():
        if isinstance(value, (str, int, float, bool)):
            print(f"  {name}: {value}")


def print_report(page: Path) -> None:
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
