"""Shared parts of all benchmarks: rows with a goal, the printed table, JSON output, and the machine."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value: a ratio within this run, or a size. `spread` is (lowest, highest) over the rounds."""

    name: str
    value: float
    unit: str
    goal: float
    better: str  # "higher" or "lower"
    spread: tuple[float, float]

    @property
    def reached(self) -> bool:
        """Return whether the value is at least as good as the goal."""
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


def from_rounds(name: str, values: Sequence[float], unit: str, goal: float, better: str) -> Row:
    """Create a row from repeated measurements: the median, with the lowest and highest value as spread."""
    return Row(name, statistics.median(values), unit, goal, better, (min(values), max(values)))


def interleaved(usual: Callable, ours: Callable, rounds: int, calls: int) -> list[float]:
    """Return the CPU time of `usual` over that of `ours` per round, interleaved, after one warm-up call of each.

    CPU time of this thread is less sensitive to other work on the machine than wall time.
    """
    usual(), ours()
    ratios = []
    for _ in range(rounds):
        seconds = []
        for function in (usual, ours):
            start = time.thread_time()
            for _ in range(calls):
                function()
            seconds.append(time.thread_time() - start)
        ratios.append(seconds[0] / seconds[1])
    return ratios


def machine() -> str:
    """Describe cores, processor and Python in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, {platform.system()}"


def run(measure: Callable[[bool], list[Row]], description: str) -> None:
    """Parse --quick and --json, measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    rows = measure(arguments.quick)
    print(f"{description}\n{machine()}\n")
    print(f"{'name':36} {'value':>10} {'goal':>12} {'spread':>20}  unit")
    for row in rows:
        goal = f"{'>=' if row.better == 'higher' else '<='} {row.goal:g}"
        spread = f"{row.spread[0]:.3g} .. {row.spread[1]:.3g}"
        print(f"{row.name:36} {row.value:10.3f} {goal:>12} {spread:>20}  {row.unit}{'' if row.reached else '  MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
