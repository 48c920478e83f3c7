"""Processes that stay alive between measurements, which exclude their start-up."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from hawor_pipeline.workers.pool import single_threaded_environment, start_worker


@dataclass(frozen=True, slots=True)
class Timed:
    """Combined work of some processes."""

    done: float  # sum of the jobs' results (hands)
    wall_s: float
    cpu_s: float  # of all processes together
    processes: int

    @property
    def rate(self) -> float:
        """Rate per second of wall time."""
        return self.done / self.wall_s

    @property
    def per_core(self) -> float:
        """Rate per second of processor time."""
        return self.done / self.cpu_s


class Workers:
    """Context manager of processes with one thread each."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("forkserver")
        pipes = [context.Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pipes]
        with single_threaded_environment():
            self._processes = [context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes]
            for process in self._processes:
                process.start()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()

    def run(self, function: Callable[[Any], float], jobs: list[list[Any]]) -> Timed:
        """Run a list of jobs in each process and wait for all."""
        used = self._pipes[: len(jobs)]
        start = time.perf_counter()
        for pipe, mine in zip(used, jobs, strict=True):
            pipe.send((function, mine))
        answers = [pipe.recv() for pipe in used]
        wall = time.perf_counter() - start
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return Timed(sum(done for done, _ in answers), wall, sum(cpu for _, cpu in answers), len(used))


def _serve(pipe: Connection) -> None:
    start_worker()
    while (message := pipe.recv()) is not None:
        function, jobs = message
        start = time.process_time()
        try:
            pipe.send((sum(function(job) for job in jobs), time.process_time() - start))
        except Exception as error:  # sent to the parent, which raises it
            pipe.send(error)
