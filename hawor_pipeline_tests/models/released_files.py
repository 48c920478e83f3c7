"""Files of weights as other projects release them: their names, the body model, and a configuration object of yacs."""

import sys
import types

import torch

from hawor_pipeline.models.hawor import HaworModel
from hawor_pipeline.models.released_names import to_released

BODY_MODEL = {"mano.v_template": torch.randn(778, 3), "mano.shapedirs": torch.randn(778, 3, 10)}


def released_state(model: HaworModel, kind: str = "hawor") -> dict[str, torch.Tensor]:
    """Return the state_dict of a network under the names of HaWoR, HaMeR or WiLoR."""
    parts = {"hawor": ("",), "hamer": ("backbone.", "mano_head."), "wilor": ("backbone.",)}[kind]
    state = {**to_released(model.state_dict()), **BODY_MODEL}
    state = {name: value for name, value in state.items() if name.startswith(("mano.", "initialized", *parts))}
    if kind == "hamer":
        state["discriminator.out.weight"] = torch.zeros(3)
    if kind == "wilor":
        state |= {"refine_net.deconv.weight": torch.zeros(2), "backbone.pose_emb.weight": torch.zeros(2, 2)}
    return state


def write_released_file(path, model: HaworModel, kind: str = "hawor"):
    """Write a Lightning checkpoint whose hyper-parameters hold a yacs CfgNode; yacs itself is not needed."""
    module = types.ModuleType("yacs.config")
    node_type = type("CfgNode", (dict,), {"__module__": "yacs.config", "__qualname__": "CfgNode"})
    module.CfgNode = node_type
    names = {"yacs": types.ModuleType("yacs"), "yacs.config": module}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        node = node_type(MODEL=node_type(IMAGE_SIZE=256, BBOX_SHAPE=[192, 256]))
        content = {"state_dict": released_state(model, kind), "hyper_parameters": {"cfg": node}, "epoch": 3}
        torch.save({**content, "callbacks": {}, "pytorch-lightning_version": "2.2.4"}, path)
    finally:
        for name, found in before.items():
            del sys.modules[name]
            if found is not None:
                sys.modules[name] = found
    return path
