"""Mapping a function over tasks by the engine that `$HAWOR_ENGINE` names: processes, or one core per task of Ray.

Files are not sent to a Ray cluster: workers see raw data and shards under the same paths (a shared file system). A task
that is lost with its worker runs again; conversion publishes by a rename, so running it twice gives the same bytes.
"""

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from hawor_pipeline.errors import ConfigError, WorkerLost, nearest
from hawor_pipeline.workers.pool import Task, guarded, limit_threads, map_in_processes

ENGINE_VARIABLE = "HAWOR_ENGINE"
ENGINES = ("multiprocess", "ray", "k8s")
ATTEMPTS = 3  # per task, where a worker or its machine is lost
_CONNECT_TIMEOUT_S = 10.0


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


def map_on_ray(
    function: Callable[[Task], Any], tasks: list[Task], prepare_worker: Callable[[], Any]
) -> Iterator[tuple[Task, Any]]:
    """Run a function on every task on the cluster at `$RAY_ADDRESS`; see `map_tasks`.

    Args:
        function: Importable on the workers.
        tasks: Sent to the workers by pickle.
        prepare_worker: Importable; called in the worker before each task.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
        WorkerLost: A task was lost with its worker ATTEMPTS times.
    """
    ray = _ray()
    joined = not ray.is_initialized()
    if joined:
        _join(ray)
    remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1, scheduling_strategy="SPREAD")(_run)
    waiting: dict[Any, Task] = {}
    try:
        waiting |= {remote.remote(function, task, prepare_worker): task for task in tasks}
        while waiting:
            finished, _ = ray.wait(list(waiting), num_returns=1)
            for reference in finished:
                yield waiting.pop(reference), ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        raise WorkerLost(
            f"a task was lost {ATTEMPTS} times with its Ray worker ({type(error).__name__}); finished work is kept. "
            "Run the same command again, with more memory per worker if it ran out."
        ) from None
    finally:
        for reference in list(waiting):
            ray.cancel(reference)
        if joined:
            ray.shutdown()


def _run(function: Callable[[Any], Any], task: Any, prepare_worker: Callable[[], Any]) -> Any:
    prepare_worker()
    return guarded(function, task)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(
            f"engine ray needs Ray ({error}); install it: pip install -c constraints.txt '.[ray]'"
        ) from error
    return ray


def _join(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS", "auto")
    try:
        _require_listener(address)
        ray.init(address=address, logging_level="warning", log_to_driver=False)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address!r} ({error}); start one (`ray start --head`) and set RAY_ADDRESS, "
            "or set HAWOR_ENGINE=multiprocess"
        ) from error


def _require_listener(address: str) -> None:
    """Raise OSError where nothing listens at `host:port`: Ray itself retries for minutes without a message."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
