"""Quantizer plugins of qsearch, and their packed exports.

Importing this package is enough for ``from_pretrained`` to load packed exports. It does not
import transformers, which takes seconds.
"""

from qsearch_quantizers.packed.registration import register_with_transformers

register_with_transformers()
