"""The network, its checkpoints and the formats of other projects' weights. Names are imported on first use.

Reading data belongs in `loading`; the training loop belongs in `training`.
"""

import importlib

_PUBLIC = {
    "HaworModel": "hawor_pipeline.models.hawor",
    "HaworOutput": "hawor_pipeline.models.hawor",
    "NetworkConfig": "hawor_pipeline.models.hawor",
    "build_model": "hawor_pipeline.models.hawor",
    "load_hawor": "hawor_pipeline.models.checkpoints",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
