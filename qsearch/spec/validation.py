"""Validation errors of study files as messages for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from qsearch.errors import InputError
from qsearch.spec.old_names import OLD_NAMES

_MAX_SHOWN = 80

_Model = TypeVar("_Model", bound=BaseModel)


def validate(model: type[_Model], values: Any, source: str, section: str = "") -> _Model:
    """Validate values, turning pydantic's errors into one message for the user.

    ``section`` is the path of the values in their file, the source, such as ``task``.

    Raises:
        InputError: Naming the file, and each wrong field with its value and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            # Pydantic adds the alternatives of a union, such as "literal['none']", to the path.
            location = [step for step in problem["loc"] if "[" not in str(step)]
            field = ".".join(str(step) for step in [*([section] if section else []), *location])
            message = OLD_NAMES.get(field) or _message(model, problem, location)
            lines.append(f"{field or 'the study'}: {message}")
        raise InputError(f"{source}: " + "; ".join(lines)) from error


def _message(model: type[BaseModel], problem: ErrorDetails, location: Sequence[int | str]) -> str:
    """Return what is allowed, and what was given unless the message names it already."""
    kind, value = problem["type"], repr(problem["input"])
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"unknown field; allowed here: {', '.join(_fields(model, location[:-1]))}"
    if kind == "missing" or (kind == "value_error" and value in message):
        return message
    if kind == "model_type":
        message = "must be a section of fields"
    elif kind in ("tuple_type", "list_type"):
        message = "must be a list"
        if isinstance(problem["input"], str | int | float):
            message += f", such as [{shorten(str(problem['input']))}]"
    return f"{message}, not {shorten(value)}"


def shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _fields(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the field names of the model at a path of fields."""
    for step in path:
        field = model.model_fields.get(str(step))
        model = next(_models(field.annotation), model) if field else model
    return sorted(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models among an annotation's alternatives."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
