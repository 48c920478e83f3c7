"""The built-in synthetic dataset: a procedural hand, articulated objects and cameras, written in ARCTIC's raw layout.

Reading that layout belongs in `sources`; conversion to shards belongs in `conversion`.
"""

import importlib

_PUBLIC = {
    "SampleSpec": "hawor_pipeline.sample.spec",
    "ensure_sample": "hawor_pipeline.sample.write",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hawor_pipeline.sample' has no attribute {name!r}")
