"""YAML 1.2 text as plain data, and back.

A short text can stand for billions of values (aliases, merged mappings) or for a tree that is too
deep to be walked. Both are refused while the text is read.
"""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError, MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from qsearch.errors import InputError

MAX_BYTES = 1_000_000
"""Of a file. Ready studies have 1 kB; one that lists every layer of a large model has 100 kB."""

MAX_ALIASED = 100_000
"""Values that a text's aliases stand for: what a file without aliases could hold."""

MAX_DEPTH = 50
"""Sections inside sections; a study has five. Validating and writing go deep as the data does."""


def parse_yaml(text: str, source: str) -> Any:
    """Return mappings, lists and scalars; what an alias stands for is shared, not copied.

    Raises:
        InputError: If it is not YAML, is too deep, or has aliases that stand for too much. The
            message names the source.
    """
    try:
        return _yaml().load(text)
    except MaxDepthExceededError as error:
        raise InputError(f"{source}: sections lie more than {MAX_DEPTH} deep") from error
    # Conversions raise whatever Python does, for text such as "2020-13-45" or "!!bool x".
    except Exception as error:
        raise InputError(f"{source}: not valid YAML: {_reason(error)}") from error


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds, as :func:`parse_yaml` does.

    Raises:
        InputError: If it cannot be read, has more than :data:`MAX_BYTES`, or is not YAML.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{path}: a study YAML has at most {MAX_BYTES} bytes")
        text = content.decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return parse_yaml(text, str(path))


def dump_yaml(values: Any) -> str:
    """Return plain data as YAML that :func:`parse_yaml` reads as equal, in the order it has."""
    stream = StringIO()
    _yaml().dump(values, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _BoundedComposer
    yaml.max_depth = MAX_DEPTH
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = MAX_BYTES  # One line a value, whatever its length.
    return yaml


class _BoundedComposer(Composer):
    """Counts what aliases stand for, before anything is made of it."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self._aliased = 0

    def return_alias(self, node: Node) -> Node:
        if node.end_mark is None:
            raise ComposerError(problem="an alias refers to a section that holds it")
        waiting = [(node, self.depth)]
        while waiting:
            inner, depth = waiting.pop()
            self._aliased += 1
            if self._aliased > MAX_ALIASED:
                raise ComposerError(problem=f"its aliases stand for more than {MAX_ALIASED} values")
            if depth > MAX_DEPTH:
                raise MaxDepthExceededError()
            if isinstance(inner, SequenceNode):
                waiting += [(item, depth + 1) for item in inner.value]
            elif isinstance(inner, MappingNode):
                waiting += [(item, depth + 1) for pair in inner.value for item in pair]
        return node


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        text = " ".join(filter(None, (error.context, error.problem))) + place
    return " ".join(text.split())[:300]
