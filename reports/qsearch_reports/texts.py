"""Text that tables and files can hold."""

from __future__ import annotations

from qsearch.plugins.evaluation import Metric


def metric_text(metric: Metric) -> str:
    """Return the name of a task metric, and which values of it are better."""
    return f"{metric.name} ({metric.better} is better)"


def weights_text(count: int) -> str:
    """Return a number of weights, in millions unless that would round it away."""
    return f"{count / 1e6:.1f} M weights" if count >= 50_000 else f"{count:,} weights"


def in_unit(name: str, unit: str) -> str:
    """Return the name of a value with its unit, if it has one."""
    return f"{name} ({unit})" if unit else name


def whole_text(value: object) -> str:
    """Return a value as text; halves of characters, which UTF-8 has not, are question marks.

    Names of files, and escapes in JSON and YAML, may hold such halves; pandas refuses them.
    """
    return str(value).encode("utf-8", "replace").decode()
