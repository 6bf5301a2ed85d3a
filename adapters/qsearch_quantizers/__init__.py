"""Quantizer plugins of qsearch, and their packed exports.

Importing this package is enough for ``from_pretrained`` to load packed exports. It does not
import transformers, which takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qsearch_quantizers.packed.registration import register_with_transformers

if TYPE_CHECKING:
    from torch import nn

register_with_transformers()


def use_compiled_product(model: nn.Module) -> list[str]:
    """Have a packed model generate faster on the CPU, by code that its C compiler makes.

    See :func:`qsearch_quantizers.packed.compiled.use_compiled_product`.
    """
    from qsearch_quantizers.packed import compiled  # It imports PyTorch.

    return compiled.use_compiled_product(model)
