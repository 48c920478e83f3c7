"""Names of parameters: ours in this package, HaWoR's in files for other projects.

HaWoR's names and shapes are those of its released checkpoint (hawor.ckpt, 671 entries; sizes ST_HDIM 512, ST_NLAYER 6,
MOTION_HDIM 384, MOTION_NLAYER 6); HaMeR's and ViTPose's are the same where they have the same part. `{n}` is the index
of a block or layer, `{m}` the name of a temporal module.

Belongs here: names, and the one tensor that is stored in another shape. Does not: files.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_BLOCK = ("backbone.blocks.{n}.", "backbone.blocks.{n}.")
_TRACK = ("{m}.layers.{n}.", "{m}.trans.layers.{n}.")
_LEVEL = ("mano_head.layers.{n}.", "mano_head.transformer.transformer.layers.{n}.")
_BACKBONE = {
    "backbone.positions": "backbone.pos_embed",
    "backbone.patch_embed.projection.": "backbone.patch_embed.proj.",
    "backbone.norm.": "backbone.last_norm.",
}
_IN_BLOCK = {
    "attention_norm.": "norm1.",
    "attention.query_key_value.": "attn.qkv.",
    "attention.output.": "attn.proj.",
    "feedforward_norm.": "norm2.",
    "feedforward.expand.": "mlp.fc1.",
    "feedforward.contract.": "mlp.fc2.",
}
_TEMPORAL = {
    "{m}.input.": "{m}.l1.",
    "{m}.output.": "{m}.l2.",
    "{m}.positions": "{m}.pos_embedding.pe",
}
_IN_TRACK = {
    "attention.query_key_value.weight": "self_attn.in_proj_weight",
    "attention.query_key_value.bias": "self_attn.in_proj_bias",
    "attention.output.": "self_attn.out_proj.",
    "attention_norm.": "norm1.",
    "feedforward.expand.": "linear1.",
    "feedforward.contract.": "linear2.",
    "feedforward_norm.": "norm2.",
}
_HEAD = {
    "mano_head.mean_pose": "mano_head.init_hand_pose",
    "mano_head.mean_betas": "mano_head.init_betas",
    "mano_head.mean_camera": "mano_head.init_cam",
    "mano_head.query_embedding.": "mano_head.transformer.to_token_embedding.",
    "mano_head.query_position": "mano_head.transformer.pos_embedding",
    "mano_head.pose_output.": "mano_head.decpose.",
    "mano_head.betas_output.": "mano_head.decshape.",
    "mano_head.camera_output.": "mano_head.deccam.",
}
_IN_LEVEL = {
    "self_attention_norm.": "0.norm.",
    "self_attention.query_key_value.": "0.fn.to_qkv.",
    "self_attention.output.": "0.fn.to_out.0.",
    "cross_attention_norm.": "1.norm.",
    "cross_attention.key_value.": "1.fn.to_kv.",
    "cross_attention.query.": "1.fn.to_q.",
    "cross_attention.output.": "1.fn.to_out.0.",
    "feedforward_norm.": "2.norm.",
    "feedforward.expand.": "2.fn.net.0.",
    "feedforward.contract.": "2.fn.net.3.",
}


def _prefixed(prefix: tuple[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {prefix[0] + ours: prefix[1] + theirs for ours, theirs in names.items()}


RELEASED_OF_OURS: dict[str, str] = {
    **_BACKBONE,
    **_prefixed(_BLOCK, _IN_BLOCK),
    **_TEMPORAL,
    **_prefixed(_TRACK, _IN_TRACK),
    **_HEAD,
    **_prefixed(_LEVEL, _IN_LEVEL),
}
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

    The buffers `mano.*` are licensed and not exported; HaWoR fills them from its user's MANO files.
    """
    renamed = {released_name(name): value for name, value in state.items()}
    tables = {name: value[:, None] for name, value in renamed.items() if name.endswith("pos_embedding.pe")}
    return {"initialized": torch.tensor(False), **renamed, **tables}  # position tables are (100, 1, C) there


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors from HaWoR's names to ours; tensors that are no part of our network keep their names."""
    renamed = {our_name(name): value for name, value in state.items()}
    stored = [name for name, value in renamed.items() if name.endswith("_module.positions") and value.ndim == 3]
    tables = {name: renamed[name][:, 0] for name in stored}
    return {**renamed, **tables}
