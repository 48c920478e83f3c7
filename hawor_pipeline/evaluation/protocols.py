"""Evaluation protocols: whose hands, in which pictures, count. A number without its protocol cannot be compared."""

from dataclasses import dataclass

from hawor_pipeline.config import ALL_VIEWS, STATIC_VIEWS
from hawor_pipeline.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class Protocol:
    """`views` that count; wrist-aligned and Procrustes-aligned errors, samples weighted equally, in all of them."""

    name: str
    views: tuple[int, ...]
    meaning: str


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("arctic-all-val", ALL_VIEWS, "ARCTIC's validation subject, all nine views"),
        Protocol(
            "arctic-p1-val", STATIC_VIEWS, "ARCTIC's protocol 1 on its validation subject: the eight static views"
        ),
        Protocol("arctic-p2-val", (0,), "ARCTIC's protocol 2 on its validation subject: the egocentric view"),
    )
}
DEFAULT_PROTOCOL = "arctic-all-val"


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}; there are {', '.join(PROTOCOLS)}.{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]
