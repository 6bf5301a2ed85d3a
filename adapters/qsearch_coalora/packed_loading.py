"""Loading what the ``packed`` export wrote: the packed base model with its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qsearch.errors import InputError
from qsearch_coalora.models import import_transformers


def load_packed(directory: Path) -> Any:
    """Load a packed export as a PEFT model in evaluation mode.

    Base weights stay packed in memory; the adapter runs beside them unmerged.

    Args:
        directory: The export's folder.

    Raises:
        InputError: If the folder is no packed export.
    """
    import peft
    import qsearch_quantizers.checkpoint  # noqa: F401  (makes transformers know the format)
    from peft.tuners.lora import Linear
    from qsearch_quantizers.packed_linear import PackedLinear

    adapter = directory / "adapter"
    if not (directory / "config.json").is_file() or not adapter.is_dir():
        raise InputError(f"{directory} is no packed export: it needs config.json and adapter/")
    transformers = import_transformers()
    config = transformers.AutoConfig.from_pretrained(str(directory), trust_remote_code=False)
    base = getattr(transformers, config.architectures[0]).from_pretrained(
        str(directory), trust_remote_code=False
    )
    adapter_config: Any = peft.LoraConfig.from_pretrained(str(adapter))
    # PEFT wraps only the linear layers that it knows, unless told of others.
    adapter_config._register_custom_module({PackedLinear: Linear})
    return peft.PeftModel.from_pretrained(base, str(adapter), config=adapter_config).eval()
