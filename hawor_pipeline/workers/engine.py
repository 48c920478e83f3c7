"""Mapping a function over tasks by the engine that `$HAWOR_ENGINE` names."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from hawor_pipeline.errors import ConfigError, nearest
from hawor_pipeline.workers.pool import Task, limit_threads, map_in_processes
from hawor_pipeline.workers.ray_map import map_on_ray

ENGINE_VARIABLE = "HAWOR_ENGINE"
ENGINES = ("multiprocess", "ray", "k8s")


def chosen_engine() -> str:
    """Return the engine that `$HAWOR_ENGINE` names, by default `multiprocess`.

    Raises:
        ConfigError: The name is unknown.
    """
    name = os.environ.get(ENGINE_VARIABLE) or "multiprocess"
    if name not in ENGINES:
        raise ConfigError(
            f"${ENGINE_VARIABLE} is {name!r}; expected one of {', '.join(ENGINES)}.{nearest(name, ENGINES)}"
        )
    return name


def map_tasks(
    function: Callable[[Task], Any], tasks: list[Task], workers: int | None, preload: list[str]
) -> Iterator[tuple[Task, Any]]:
    """Run a function on every task and yield the results in the order of completion.

    Under `ray` the cluster decides the number of workers; under `k8s` a step is one job, so its tasks run in local
    processes.

    Args:
        function: Importable; takes one task.
        tasks: Sent to the workers by pickle.
        workers: Number of processes; None for one per usable core, 0 to run everything in this process.
        preload: Modules that the workers import before their first task.

    Yields:
        (task, result), where the result is the HaworError if the function raised one.

    Raises:
        ConfigError: The number of workers is negative, or the engine is unknown.
        WorkerLost: A worker died.
    """
    if workers is not None and workers < 0:
        raise ConfigError(f"{workers} workers: expected 1 or more, 0 for none, or nothing for one per core")
    if tasks and chosen_engine() == "ray":
        yield from map_on_ray(function, tasks, limit_threads)
    else:
        yield from map_in_processes(function, tasks, workers, preload)
