"""Names of parameters: ours in this package, HaWoR's in files for other projects.

HaWoR's names and shapes are those of its released checkpoint (hawor.ckpt, 671 entries; sizes ST_HDIM 512, ST_NLAYER 6,
MOTION_HDIM 384, MOTION_NLAYER 6); HaMeR's and ViTPose's are the same where they have the same part. The table is
`released_names.yaml`.

Belongs here: names, and the one tensor that is stored in another shape. Does not: files.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hawor_pipeline.config import read_yaml
from hawor_pipeline.models.form import RECORD

RELEASED_OF_OURS: dict[str, str] = read_yaml(Path(__file__).with_suffix(".yaml"))
_PLACEHOLDERS = {"{n}": r"(?P<n>\d+)", "{m}": r"(?P<m>st_module|motion_module)"}


def _rules(table: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    rules = []
    for source, target in table.items():
        pattern = re.escape(source)
        for name, group in _PLACEHOLDERS.items():  # an index or module name is carried over as it is
            pattern = pattern.replace(re.escape(name), group)
            target = target.replace(name, rf"\g<{name[1]}>")
        # A source that ends in "." is the prefix of a module (weight and bias follow); any other is a whole name.
        rules.append((re.compile(pattern if source.endswith(".") else pattern + r"\Z"), target))
    return rules


_TO_RELEASED = _rules(RELEASED_OF_OURS)
_TO_OURS = _rules({theirs: ours for ours, theirs in RELEASED_OF_OURS.items()})


def _renamed(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, target in rules:
        if found := pattern.match(name):
            return found.expand(target) + name[found.end() :]
    return name


def released_name(name: str) -> str:
    """Return HaWoR's name of one of our parameters; parts that HaWoR lacks (the convolutional stem) keep their names.

    >>> released_name("backbone.blocks.3.attention.output.bias")
    'backbone.blocks.3.attn.proj.bias'
    """
    return _renamed(name, _TO_RELEASED)


def our_name(name: str) -> str:
    """Return our name of one of HaWoR's parameters; any other name is unchanged.

    >>> our_name("motion_module.pos_embedding.pe")
    'motion_module.positions'
    """
    return _renamed(name, _TO_OURS)


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our tensors to HaWoR's names, and add its `initialized` flag: its code requires every entry.

    The buffers `mano.*` are licensed and not exported; HaWoR fills them from its user's MANO files. The record of the
    network's form is no tensor of HaWoR's.
    """
    renamed = {released_name(name): value for name, value in state.items() if name != RECORD}
    tables = {name: value[:, None] for name, value in renamed.items() if name.endswith("pos_embedding.pe")}
    return {"initialized": torch.tensor(False), **renamed, **tables}  # position tables are (100, 1, C) there


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors from HaWoR's names to ours; tensors that are no part of our network keep their names."""
    renamed = {our_name(name): value for name, value in state.items()}
    stored = [name for name, value in renamed.items() if name.endswith("_module.positions") and value.ndim == 3]
    tables = {name: renamed[name][:, 0] for name in stored}
    return {**renamed, **tables}
