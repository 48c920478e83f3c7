"""Progress of a training process, shown in the UI while it runs.

A Pipes child cannot send observations, but it can send custom messages. This reader turns each validation
into an `AssetObservation`, whose numbers the UI plots over time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg


def observation_metadata(progress: dict[str, Any]) -> dict[str, Any]:
    """The finite numbers of a progress message, as metadata."""
    return {
        name: value
        for name, value in progress.items()
        if isinstance(value, str) or (isinstance(value, (int, float)) and value == value and abs(value) != float("inf"))
    }


class LiveProgressReader(dg.PipesTempFileMessageReader):
    """Reads messages through a temporary file, and observes the asset at each validation."""

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[Any]:
        """Wrap the handler's treatment of custom messages for the time of one session."""
        context = handler._context
        keep = handler._handle_extra_message

        def observe(payload: Any) -> None:
            keep(payload)
            if isinstance(payload, dict) and payload.get("kind") == "validation":
                context.log_event(dg.AssetObservation(context.asset_key, metadata=observation_metadata(payload)))

        handler._handle_extra_message = observe  # type: ignore[method-assign]
        with super().read_messages(handler) as params:
            yield params
