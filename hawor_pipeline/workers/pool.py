"""A pool of worker processes that start quickly, use one thread each, and never outlive their parent.

Workers are forked from a server process that has imported the preloaded modules once. A plain fork of this process
would copy locks that its threads hold; spawning would import torch in every worker again.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from hawor_pipeline.errors import HaworError, WorkerLost

Task = TypeVar("Task")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def map_in_processes(
    function: Callable[[Task], Any], tasks: list[Task], workers: int | None, preload: list[str]
) -> Iterator[tuple[Task, Any]]:
    """Run a function on every task in processes of this machine; see `engine.map_tasks`."""
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
    """Return the number of cores this process may use, which a container or taskset can limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def guarded(function: Callable[[Task], Any], task: Task) -> Any:
    """Return the result of a function on a task, or the HaworError that it raised."""
    try:
        return function(task)
    except HaworError as error:
        return error


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch and OpenCV to one thread inside the block."""
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
    """Give numerical libraries one thread in every process started inside the block.

    OpenMP, OpenBLAS and MKL read these variables when they are loaded, so they must be set before a worker starts.
    """
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
    """Limit torch and OpenCV to one thread for the rest of this process, because the pool fills the cores already."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def start_worker() -> None:
    """Initialise a worker process."""
    limit_threads()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    """End this process when its parent ends.

    The sentinel is a pipe that the kernel closes with the parent, so a killed parent (SIGKILL) is noticed too.
    `os._exit` skips handlers and `finally` blocks, which could wait for the dead parent.
    """
    connection.wait([sentinel])
    os._exit(1)
