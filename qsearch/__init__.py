"""Bayesian-optimization search for quantization configurations.

What is listed in ``__all__`` is the public API. It is imported when it is first used, since PyTorch
and Ax take seconds.
"""

import os
from typing import TYPE_CHECKING, Any

# Idle OpenMP threads spin for long by default. On a machine that is shared, spinning takes the
# cores that the waited-for thread needs: quantizing many small tensors was measured 20 times
# slower. Sleeping at once makes training a third slower, so threads spin briefly, then sleep.
# The runtime reads this once, when PyTorch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from qsearch.api.creation import create_study, load_study, run_study
    from qsearch.api.model_space import Space
    from qsearch.api.observation import Observation
    from qsearch.api.quantization import quantized
    from qsearch.api.study import Study
    from qsearch.api.trial import Trial
    from qsearch.errors import InputError, ObjectiveError, QsearchError
    from qsearch.plugins.evaluation import Metric

    __version__: str

_MODULES = {
    "InputError": "errors",
    "Metric": "plugins.evaluation",
    "ObjectiveError": "errors",
    "Observation": "api.observation",
    "QsearchError": "errors",
    "Space": "api.model_space",
    "Study": "api.study",
    "Trial": "api.trial",
    "create_study": "api.creation",
    "load_study": "api.creation",
    "quantized": "api.quantization",
    "run_study": "api.creation",
}
"""Where each public name is."""

__all__ = [
    "InputError",
    "Metric",
    "ObjectiveError",
    "Observation",
    "QsearchError",
    "Space",
    "Study",
    "Trial",
    "__version__",
    "create_study",
    "load_study",
    "quantized",
    "run_study",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        from qsearch._distribution import DISTRIBUTION

        value = version(DISTRIBUTION)
    elif name in _MODULES:
        value = getattr(_import_quietly(f"qsearch.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module 'qsearch' has no attribute {name!r}")
    globals()[name] = value
    return value


def _import_quietly(module: str) -> Any:
    """Import a module without what Ax logs meanwhile."""
    import logging
    from importlib import import_module

    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        return import_module(module)
    finally:
        logging.disable(before)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
