"""The engine that work is spread over: processes of this machine, or a cluster that exists already."""

import os

from hawor_pipeline.errors import ConfigError, nearest

ENGINE_VARIABLE = "HAWOR_ENGINE"
ENGINES = ("multiprocess", "ray", "k8s")


def chosen_engine() -> str:
    """The engine that `$HAWOR_ENGINE` names; `multiprocess` where it is not set.

    Raises:
        ConfigError: no engine has that name.
    """
    name = os.environ.get(ENGINE_VARIABLE) or "multiprocess"
    if name not in ENGINES:
        raise ConfigError(
            f"${ENGINE_VARIABLE} is {name!r}; expected one of {', '.join(ENGINES)}.{nearest(name, ENGINES)}"
        )
    return name
