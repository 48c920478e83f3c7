"""User errors inside a step become one clear failure that is not retried: retrying does not mend a wrong path."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from hawor_pipeline.errors import HaworError


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a `HaworError` into a Dagster failure that carries its message."""
    try:
        yield
    except HaworError as error:
        raise dg.Failure(description=f"{type(error).__name__}: {error}", allow_retries=False) from None
