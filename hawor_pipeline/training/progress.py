"""Lines of progress: a file that another process can follow, and the terminal."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Progress = Callable[[dict[str, Any]], None]


class RunClock:
    """Seconds that a run has trained, all its processes together."""

    def __init__(self) -> None:
        self.before = 0.0  # of earlier processes
        self._begun = time.perf_counter()

    def start(self) -> None:
        """This process begins to train now."""
        self._begun = time.perf_counter()

    def seconds(self) -> float:
        """So far."""
        return self.before + time.perf_counter() - self._begun


class ProgressFile:
    """Appends lines of JSON that another process can follow; with `echo` they also go to the terminal.

    Args:
        path: of the file; None writes none.
        echo: print each line.
        also: called with each line's dict.
    """

    def __init__(self, path: Path | None, *, echo: bool = False, also: Progress | None = None):
        self.path, self.echo, self.also = path, echo, also

    def __call__(self, line: dict[str, Any]) -> None:
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
