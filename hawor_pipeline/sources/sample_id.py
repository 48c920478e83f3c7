"""The name of a sample: "subject/sequence/view/frame/side", such as s01/box_grab_01/0/00012/right."""

import re
from typing import NamedTuple

from hawor_pipeline.sources.arctic import SIDES

# Subject and sequence become folders, so none may lead elsewhere.
_SAMPLE_ID = re.compile(rf"([^/\\\0.][^/\\\0]*)/([^/\\\0.][^/\\\0]*)/([0-9]{{1,9}})/([0-9]{{1,9}})/({'|'.join(SIDES)})")


class SampleKey(NamedTuple):
    """The parts of a sample's name."""

    subject: str
    sequence: str
    view: int
    frame: int
    side: str


def sample_id(subject: str, sequence: str, view: int, frame: int, side: str) -> str:
    """Return the name of a sample.

    >>> sample_id("s01", "box_grab_01", 0, 12, "right")
    's01/box_grab_01/0/00012/right'
    """
    return f"{subject}/{sequence}/{view}/{frame:05d}/{side}"


def parse_sample_id(name: str) -> SampleKey | None:
    """Split the name of a sample into its parts; None where it is no such name."""
    found = _SAMPLE_ID.fullmatch(name)
    if found is None:
        return None
    subject, sequence, view, frame, side = found.groups()
    return SampleKey(subject, sequence, int(view), int(frame), side)
