"""A pool of worker processes that start quickly, use one thread each, and never outlive their parent."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from hawor_pipeline.errors import ConfigError, HaworError, WorkerLost
from hawor_pipeline.workers.engine import chosen_engine

Task = TypeVar("Task")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def map_tasks(
    function: Callable[[Task], Any], tasks: list[Task], workers: int | None, preload: list[str]
) -> Iterator[tuple[Task, Any]]:
    """Run a function on every task, in processes; results come as they are ready.

    Args:
        function: importable; gets one task.
        tasks: sent to the workers by pickle.
        workers: processes; None for one per usable core, 0 runs everything in this process.
        preload: modules that the workers find already imported.

    Yields:
        (task, result), where the result is a HaworError if the function raised one.

    Raises:
        ConfigError: a negative number of workers.
        WorkerLost: a worker died.
    """
    if workers is not None and workers < 0:
        raise ConfigError(f"{workers} workers: expected 1 or more, 0 for none, or nothing for one per core")
    if tasks and chosen_engine() == "ray":
        from hawor_pipeline.workers.ray_map import map_on_ray

        yield from map_on_ray(function, tasks, limit_threads)
        return
    if workers == 0:
        with one_thread():
            for task in tasks:
                yield task, guarded(function, task)
        return
    count = max(1, min(workers or usable_cores(), len(tasks)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    with single_threaded_environment(), ProcessPoolExecutor(count, context, start_worker) as pool:
        waiting: dict[Future, Task] = {pool.submit(guarded, function, task): task for task in tasks}
        try:
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool:
            raise WorkerLost(
                "a worker process died (out of memory, or killed); finished work is kept. "
                "Run the same command again, with fewer workers if memory is short. A script of your own must start "
                'under `if __name__ == "__main__":`, because every worker imports it.'
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has in a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def guarded(function: Callable[[Task], Any], task: Task) -> Any:
    """What a function makes of a task, or the HaworError that it raised."""
    try:
        return function(task)
    except HaworError as error:
        return error


@contextmanager
def one_thread() -> Iterator[None]:
    """torch and OpenCV with one thread: a pool of processes fills the cores already."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    limit_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@contextmanager
def single_threaded_environment() -> Iterator[None]:
    """Processes started inside the block use one thread each in numerical libraries."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def limit_threads() -> None:
    """One thread for torch and OpenCV, for the rest of this process."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def start_worker() -> None:
    """What every worker does first."""
    limit_threads()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    """End this process when its parent is gone, also when it was killed."""
    connection.wait([sentinel])
    os._exit(1)
