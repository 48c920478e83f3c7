"""Readable messages for invalid settings, one line per problem that pydantic reports."""

import re
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from hawor_pipeline.errors import nearest

Problem = Mapping[str, Any]  # as pydantic's ValidationError.errors() lists them


def explain_problems(schema: type[BaseModel], problems: Sequence[Problem]) -> list[str]:
    """Describe each problem in one line: key, expected and found value; unknown keys with the nearest known one.

    Args:
        schema: class of the validated settings.
        problems: errors that pydantic reported.
    """
    lines: list[str] = []
    of_several_types: dict[str, list[Problem]] = {}
    for problem in problems:
        location = problem["loc"]
        if len(location) > 1 and _has_several_types(schema, str(location[0])):
            of_several_types.setdefault(str(location[0]), []).append(problem)
        else:
            lines.append(_explain(schema, location, problem))
    for name, tried in of_several_types.items():  # pydantic tries one type after the other and reports each failure
        inside = [
            problem for problem in tried if len(problem["loc"]) > 2
        ]  # of the right type, with an invalid value inside
        types = " or ".join(dict.fromkeys(_type_name(str(problem["loc"][1])) for problem in tried))
        lines += [_explain(schema, (name, *problem["loc"][2:]), problem) for problem in inside] or [
            f"{name}: expected {types} (found {tried[0]['input']!r})"
        ]
    return lines


def _has_several_types(schema: type[BaseModel], name: str) -> bool:
    field = schema.model_fields.get(name)
    if field is None or get_origin(field.annotation) not in (Union, UnionType):
        return False
    return len([each for each in get_args(field.annotation) if each is not NoneType]) > 1


def _type_name(label: str) -> str:
    """Return the readable name of a type from pydantic's label: 'auto' for "literal['auto']"."""
    return re.sub(r"^literal\[(.*)\]$", r"\1", label).replace("constrained-", "")


def _explain(schema: type[BaseModel], location: Sequence[str | int], problem: Problem) -> str:
    where = ".".join(map(str, location))
    if problem["type"] == "extra_forbidden":
        model: type[BaseModel] | None = schema
        for name in (part for part in location[:-1] if isinstance(part, str)):
            model = _settings_in(model.model_fields[name].annotation) if model and name in model.model_fields else None
        return f"unknown key '{where}'.{nearest(str(location[-1]), list(model.model_fields) if model else [])}"
    message = problem["msg"].removeprefix("Value error, ")
    found = "" if problem["type"] == "value_error" else f" (found {problem['input']!r})"
    return f"{where + ': ' if where else ''}{message}{found}"


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class that a type is or contains: DatasetShare for `list[DatasetShare] | str`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _settings_in(part))), None)
