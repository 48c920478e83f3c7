"""Progress lines of a run: a file that another process can follow, and the terminal."""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A JSON object: "kind" (start, step, validation, warning or end), and the values of that kind.
ProgressLine = dict[str, Any]
Progress = Callable[[ProgressLine], None]


class RunClock:
    """Training time of a run, over all interruptions and resumes."""

    def __init__(self) -> None:
        self.before = 0.0  # seconds of the processes before a resume
        self._begun = time.perf_counter()

    def start(self) -> None:
        """Start the time of this process."""
        self._begun = time.perf_counter()

    def seconds(self) -> float:
        """Return the training time so far, s."""
        return self.before + time.perf_counter() - self._begun


class ProgressFile:
    """Writer of progress lines as JSON.

    Args:
        path: file to append to; None: no file.
        echo: print each line too.
        also: called with each line too.
    """

    def __init__(self, path: Path | None, *, echo: bool = False, also: Progress | None = None):
        self.path, self.echo, self.also = path, echo, also

    def __call__(self, line: ProgressLine) -> None:
        line = {name: _plain(value) for name, value in line.items()}
        text = json.dumps(line)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        if self.echo:
            print(text, flush=True)
        if self.also is not None:
            self.also(line)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_training() -> Progress:
    """Return a callback that prints progress: one line that is rewritten on a terminal, few plain lines elsewhere."""
    terminal = sys.stderr.isatty()
    begun: dict[str, float] = {}

    def progress(line: ProgressLine) -> None:
        text = _training_line(line, begun)
        if line["kind"] != "step":
            print(("\r\033[K" if terminal else "") + text, file=sys.stderr, flush=True)
        elif terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif line["step"] // max(line["total_steps"] // 20, 1) > begun["tenth"]:
            begun["tenth"] = line["step"] // max(line["total_steps"] // 20, 1)
            print(text, file=sys.stderr, flush=True)

    return progress


def _training_line(line: ProgressLine, begun: dict[str, float]) -> str:
    """Return a progress line as text; stores the start of this process in `begun`."""
    kind = line["kind"]
    if kind == "start":
        begun.update(step=line["step"], time=time.monotonic(), tenth=-1)
        resumed = f", resumed at step {line['step']}" if line["step"] else ""
        return (
            f"{line['total_steps']} steps of {line['frames_per_step']} frames on {line['device']}{resumed}: "
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
        words = {name: "not defined" if value is None else f"{value:.2f}" for name, value in found.items()}
        shown = ", ".join(f"{name.removeprefix('val/')} {text}" for name, text in sorted(words.items()))
        return f"validation at step {line['step']}: {shown}"
    if kind == "end":
        return f"{line['status']} at step {line['step']} of {line['total_steps']} ({line['ended_by']})"
    return str(line.get("message", line))
