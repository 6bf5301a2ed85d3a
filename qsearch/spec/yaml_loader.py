"""YAML as plain data: a safe loader, and bounds on what a text can make it do.

A text of a few lines can stand for billions of values (aliases, merged mappings), for a number that
takes minutes to read, or for a tree that is too deep to be walked. All that is refused here, before
anything else looks at the data.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from qsearch.errors import InputError

MAX_BYTES = 1_000_000
"""Of a file. Ready studies have 1 kB; one that lists every layer of a large model has 100 kB."""

MAX_VALUES = 100_000
"""With every alias counted as often as it is used: what a file without aliases could hold."""

MAX_DEPTH = 50
"""Sections inside sections; a study has five. Validating and writing go deep as the data does."""

_MAX_NUMBER = 100
"""Characters of a number. YAML reads 1:1:1:… as one number, in time that grows by the square."""

_MAX_INTEGER = 2**63


class SafeLoader(yaml.SafeLoader):
    """Makes plain data alone, and refuses a field that is given twice and oversized numbers."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._merged = 0

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping whose fields differ."""
        node = super().compose_mapping_node(anchor)
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            problem = f"given twice: {', '.join(twice[:10])}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put merged mappings (``<<``) in their place, as long as they are not too many."""
        super().flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > MAX_VALUES:
            raise yaml.YAMLError(f"its merged mappings have more than {MAX_VALUES} fields")

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Construct an integer or a float that is not too long."""
        if len(node.value) > _MAX_NUMBER:
            problem = f"a number of {len(node.value)} characters; at most {_MAX_NUMBER}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if node.tag.endswith(":float"):
            return float(self.construct_yaml_float(node))
        number = int(self.construct_yaml_int(node))
        if abs(number) >= _MAX_INTEGER:
            problem = "an integer of more than 64 bits"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return number


for _tag in ("int", "float"):
    SafeLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", SafeLoader.construct_number)


def parse_yaml(text: str, where: str) -> Any:
    """Return what YAML text says: mappings, lists and scalars, as a tree.

    Args:
        text: The text.
        where: What it is, for messages.

    Raises:
        InputError: If it is not YAML, refers to itself, or is too large or too deep.
    """
    try:
        # A safe loader: it makes plain data alone.
        loaded = yaml.load(text, Loader=SafeLoader)  # noqa: S506
        size, depth = _measure(loaded, where, {}, set())
    # PyYAML raises whatever its conversions raise for text such as "2020-13-45" or "!!bool x".
    except (
        yaml.YAMLError,
        RecursionError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    if size > MAX_VALUES:
        raise InputError(f"{where}: its aliases make it larger than {MAX_VALUES} values")
    if depth > MAX_DEPTH:
        raise InputError(f"{where}: sections lie {depth} deep in each other; at most {MAX_DEPTH}")
    return loaded


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says.

    Args:
        path: The file.

    Raises:
        InputError: If it cannot be read, is too large, or is no YAML.
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


def _measure(
    value: Any, where: str, known: dict[int, tuple[int, int]], parents: set[int]
) -> tuple[int, int]:
    """Return how many values a tree has, and how deep it is."""
    if not isinstance(value, dict | list):
        return 1, 0
    key = id(value)
    if key in parents:
        raise InputError(f"{where}: an alias refers to a section that holds it")
    if key not in known:
        parents.add(key)
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        sizes = [_measure(item, where, known, parents) for item in inner]
        parents.discard(key)
        known[key] = (
            1 + sum(size for size, _ in sizes),
            1 + max((depth for _, depth in sizes), default=0),
        )
    return known[key]
