"""Which packed weights an exported adapter belongs to, so that it is put on no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from qsearch.errors import InputError
from qsearch_quantizers.packed.verification import settings_digest

_MARK = "qsearch"
"""Key in an adapter's ``auto_mapping``, the one field of PEFT's that holds what it does not know.

With a task type, which exports have, PEFT makes no use of that field, and keeps it when it saves.
"""


def owner_digest(
    quantizer: str,
    quantizer_options: Mapping[str, Any],
    layers: Mapping[str, Mapping[str, Any]],
    prefix: str,
) -> str:
    """Return a text that differs where packed weights of one base model do.

    Module paths of layers may begin with the prefix, which is where the model without its head is.
    """
    plain = {name.removeprefix(f"{prefix}."): dict(layer) for name, layer in layers.items()}
    return settings_digest(
        {"quantizer": quantizer, "quantizer_options": quantizer_options, "layers": plain}
    )


def owner_mark(digest: str) -> dict[str, Any]:
    """Return the ``auto_mapping`` of an adapter that belongs to weights of a digest."""
    return {_MARK: {"weights": digest}}


@dataclass(frozen=True)
class AdapterGuard:
    """Refuses exported adapters that a packed model would compute something else with.

    Adapters without a mark are not exports of ours; one that was trained on the packed model may
    be used. The digest is that of the model's weights, which may have an adapter in them already.
    """

    digest: str
    has_adapter: bool

    def watch(self, model: nn.Module) -> None:
        """Check every adapter that PEFT or transformers puts on a model from now on."""
        # PEFT sets the model's peft_config, then loads the adapter's tensors as its state.
        model.register_load_state_dict_pre_hook(self._before_loading)  # type: ignore[no-untyped-call]
        # transformers' load_adapter() puts tensors in their places by itself.
        model.register_forward_pre_hook(self._before_running)

    def _before_loading(self, model: nn.Module, state: Mapping[str, Any], *_: object) -> None:
        for name, config in (getattr(model, "peft_config", None) or {}).items():
            if any(f".{name}." in key for key in state):
                self._require_own(name, config)

    def _before_running(self, model: Any, _inputs: object) -> None:
        if getattr(model, "_hf_peft_config_loaded", False):
            for name, config in model.peft_config.items():
                self._require_own(name, config)

    def _require_own(self, name: str, config: Any) -> None:
        mark = (getattr(config, "auto_mapping", None) or {}).get(_MARK)
        if mark is None:
            return
        if not isinstance(mark, Mapping) or mark.get("weights") != self.digest:
            raise InputError(
                f"adapter {name!r} belongs to another configuration than this packed model: it"
                " corrects what other weights lost; take the 'packed-base' of its own budget"
            )
        if self.has_adapter:
            raise InputError(
                f"this packed model has its adapter in it, and {name!r} would add it once more:"
                " use the model as it is, or put adapters on the format 'packed-base'"
            )
