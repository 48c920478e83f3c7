"""Errors that a user can meet.

HaworError                 an error that the user can act on, with the exit code of the command line
├── ConfigError            wrong usage or configuration, missing path, unknown subject   exit 2
├── DataError              corrupt or contradictory data, full disk                      exit 1
│   ├── CorruptImage       an image file that cannot be decoded                          exit 1
│   ├── UnknownRun         no results of the requested run                               exit 2
│   └── WorkerLost         a worker process died; a retry may succeed                    exit 1
├── CheckpointError        a checkpoint that cannot be read or does not fit              exit 1
├── NumericalError         a value that must be finite is not                            exit 1
└── MemoryShortage         memory of the accelerator or of the machine ran out           exit 1

A message states what was found, what was expected, and what to do.
"""

import difflib
from collections.abc import Iterable


class HaworError(Exception):
    """Base class of errors that are reported as one message without a traceback."""

    exit_code = 1


class ConfigError(HaworError):
    """Wrong usage: an unknown key, an invalid value, a path or subject that does not exist."""

    exit_code = 2


class DataError(HaworError):
    """Corrupt, rejected or contradictory data, or a full disk."""


class CorruptImage(DataError):
    """An image file that cannot be decoded, or not completely. A conversion records it and continues."""


class UnknownRun(DataError):
    """No results of the requested run, which is wrong usage."""

    exit_code = 2


class WorkerLost(DataError):
    """A dead worker process: killed, or out of memory. Finished work is kept, and a retry may succeed."""


class CheckpointError(HaworError):
    """A checkpoint that cannot be read safely, or that does not fit the network."""


class NumericalError(HaworError):
    """A loss, gradient or parameter that is not finite."""


class MemoryShortage(HaworError):
    """Memory of the accelerator, or of the machine, that ran out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint of the closest known name to append to a message ("" if nothing is close).

    >>> nearest("batchsize", ["batch_size", "max_epochs"])
    " Did you mean 'batch_size'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
