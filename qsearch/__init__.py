"""Bayesian-optimization search for quantization configurations."""

import os

# Idle OpenMP threads spin by default. On a machine that is shared, spinning takes the cores that
# the waited-for thread needs: quantizing many small tensors was measured 20 times slower. The
# runtime reads this once, when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
