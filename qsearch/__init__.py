"""Bayesian-optimization search for quantization configurations."""

import os

# Idle OpenMP threads spin for long by default. On a machine that is shared, spinning takes the
# cores that the waited-for thread needs: quantizing many small tensors was measured 20 times
# slower. Sleeping at once makes training a third slower, so threads spin briefly, then sleep.
# The runtime reads this once, when PyTorch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name: str) -> str:
    """Return the version; looking it up takes longer than all else here."""
    if name != "__version__":
        raise AttributeError(f"module 'qsearch' has no attribute {name!r}")
    from importlib.metadata import version

    from qsearch._distribution import DISTRIBUTION

    return version(DISTRIBUTION)
