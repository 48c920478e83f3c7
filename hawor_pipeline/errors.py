"""The errors a user can meet.

HaworError                 something a person can act on; carries the exit code of the command line
├── ConfigError            wrong usage, configuration, missing path, unknown subject        exit 2
├── DataError              damaged or contradictory data, full disk                          exit 1
│   ├── UnknownRun         no results of the run that was named                              exit 2
│   └── WorkerLost         a worker process died; another try may well succeed               exit 1
├── CheckpointError        a checkpoint that cannot be read or does not fit                  exit 1
├── NumericalError         a number that must be finite is not                               exit 1
└── MemoryShortage         the memory of the accelerator or of the machine does not suffice  exit 1

A message says what was found, what was expected, and what to do.
"""

import difflib
from collections.abc import Iterable


class HaworError(Exception):
    """Base of all errors that are reported as one message without a traceback."""

    exit_code = 1


class ConfigError(HaworError):
    """Wrong usage: an unknown key, a bad value, a path or subject that does not exist."""

    exit_code = 2


class DataError(HaworError):
    """Data that is damaged, refused or contradictory, or a disk that is full."""


class UnknownRun(DataError):
    """There are no results of the run that was named; asking for it is wrong usage."""

    exit_code = 2


class WorkerLost(DataError):
    """A worker process died: killed, or out of memory. Finished work is kept, and another try may succeed."""


class CheckpointError(HaworError):
    """A checkpoint that cannot be read safely, or that does not fit the network."""


class NumericalError(HaworError):
    """A loss, gradient or parameter that is not finite."""


class MemoryShortage(HaworError):
    """The memory of the accelerator, or of the machine, does not suffice."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint of the closest known name, ready to append to a message ("" if nothing is close).

    >>> nearest("batchsize", ["batch_size", "max_epochs"])
    " Did you mean 'batch_size'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
