"""One model in memory with switchable quantized weights, a LoRA adapter and θ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.configuration import Configuration, LayerConfiguration
from qsearch.errors import InputError
from qsearch.layers import LayerSpec
from qsearch.plugins import LoadedModel, Quantizer
from qsearch_coalora.discovery import full_layer_names
from qsearch_coalora.hook import AdjustmentHooks
from qsearch_coalora.options import CoALoRAOptions
from qsearch_coalora.residual import residual_factors
from qsearch_coalora.theta import Theta
from qsearch_coalora.weight_cache import BoundedCache, QuantizedWeights

ADAPTER = "default"
FACTOR_CACHE_SHARE = 0.25
"""Bound of the cache of residual factors, as a share of that of quantized weights."""

_Factors = tuple[Tensor, Tensor]


class AdaptedModel:
    """The base model, its quantized weights, the adapter and the task head.

    Base weights and all biases of the base model are frozen. The first ``options.fixed_rank``
    rows of each A and columns of each B hold residual factors and are not trained.

    Args:
        loaded: The model with its task head.
        layers: Its quantizable layers.
        quantizer: The quantizer.
        options: The trainer's options.
        seed: Draws the initial adapter and θ.

    Raises:
        InputError: If PEFT is not installed, or the rank is too great for a layer.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        layers: Sequence[LayerSpec],
        quantizer: Quantizer,
        options: CoALoRAOptions,
        seed: int,
    ) -> None:
        smallest = min(min(layer.shape) for layer in layers)
        if options.fixed_rank > smallest:
            raise InputError(
                f"trainer residual_rank {options.fixed_rank} is above the least feature count of"
                f" the model's layers, {smallest}"
            )
        self.layers = tuple(layers)
        self.options = options
        self.head_names = loaded.head
        generator = torch.Generator().manual_seed(seed)
        self.theta = Theta(quantizer.choices(), layers, options.rank, options.theta, generator).to(
            options.device
        )
        self.peft_model = _wrap(loaded, layers, options, seed).to(options.device)
        base = self.peft_model.get_base_model()
        self.lora_layers: tuple[Any, ...] = tuple(
            base.get_submodule(name) for name in full_layer_names(loaded.module, layers)
        )
        projections = [layer.lora_A[ADAPTER] for layer in self.lora_layers]
        self.hooks = AdjustmentHooks(projections)
        bound = options.cache_mebibytes * 2**20
        self.weights = QuantizedWeights(
            layers, [layer.base_layer for layer in self.lora_layers], quantizer, bound
        )
        self._factors: BoundedCache[tuple[int, LayerConfiguration], _Factors] = BoundedCache(
            int(bound * FACTOR_CACHE_SHARE),
            lambda factors: factors[0].nbytes + factors[1].nbytes,
        )
        if options.fixed_rank:
            self._fix_residual_rank()

    def _fix_residual_rank(self) -> None:
        fixed = self.options.fixed_rank
        for A, B in self.factors():
            with torch.no_grad():
                A[:fixed], B[:, :fixed] = 0, 0
            if fixed == self.options.rank:
                A.requires_grad_(False)
                B.requires_grad_(False)
            else:
                _mask_gradient(A, slice(0, fixed))
                _mask_gradient(B, (slice(None), slice(0, fixed)))

    def factors(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Yield each layer's A (r × input features) and B (output features × r)."""
        for layer in self.lora_layers:
            yield layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the task head by name."""
        return {
            f"{name}.{inner}": parameter
            for name in self.head_names
            for inner, parameter in self._head(name).named_parameters()
        }

    def _head(self, name: str) -> nn.Module:
        wrapper: Any = self.peft_model.get_base_model().get_submodule(name)
        head: nn.Module = wrapper.modules_to_save[ADAPTER]
        return head

    def activate(self, configuration: Configuration) -> None:
        """Put a configuration's quantized weights, and its residual factors, into the model."""
        self.weights.activate(configuration)
        if self.options.fixed_rank:
            self._place_residual_factors(configuration)

    @torch.no_grad()
    def _place_residual_factors(self, configuration: Configuration) -> None:
        # Always all layers: an optimizer's weight decay has touched the fixed rows too.
        fixed = self.options.fixed_rank
        for position, (A, B) in enumerate(self.factors()):
            L1, L2 = self._residual_factors(position, configuration[self.layers[position].name])
            A[:fixed] = L2
            B[:, :fixed] = L1 / self.options.scaling

    def _residual_factors(self, position: int, configuration: LayerConfiguration) -> _Factors:
        def make() -> _Factors:
            dequantized = self.lora_layers[position].base_layer.weight.data
            generator = torch.Generator().manual_seed(position)
            original = self.weights.originals[position]
            return residual_factors(original, dequantized, self.options.fixed_rank, generator)

        return self._factors.get((position, configuration), make)

    def adjustments(self, configuration: Configuration) -> Tensor:
        """Return U of a configuration (layers × r × r), with its graph to θ."""
        U: Tensor = self.theta(self.theta.encode(configuration).to(self.options.device))
        return U

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Run the model on a batch; all of its tensors but ``labels`` are model inputs."""
        inputs = {
            name: tensor.to(self.options.device)
            for name, tensor in batch.items()
            if name != "labels"
        }
        output = self.peft_model(**inputs)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained, in groups with their learning rates, for AdamW."""
        adapter = [p for pair in self.factors() for p in pair if p.requires_grad]
        theta_rate = self.options.theta_learning_rate or self.options.learning_rate
        return [
            {
                "params": [*adapter, *self.head_parameters().values()],
                "lr": self.options.learning_rate,
            },
            {"params": list(self.theta.parameters()), "lr": theta_rate},
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of all trained tensors by name, on the CPU.

        Rows that hold residual factors are zero: they follow from the configuration.
        """
        fixed = self.options.fixed_rank
        found: dict[str, Tensor] = {}
        for layer, (A, B) in zip(self.layers, self.factors(), strict=True):
            found[f"lora.{layer.name}.A"] = _without(A, slice(0, fixed))
            found[f"lora.{layer.name}.B"] = _without(B, (slice(None), slice(0, fixed)))
        found |= {f"theta.{name}": value for name, value in self.theta.named_parameters()}
        found |= {f"head.{name}": value for name, value in self.head_parameters().items()}
        return {name: value.detach().clone().cpu().contiguous() for name, value in found.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` returned.

        Raises:
            InputError: If a tensor is missing, unknown or of another shape.
        """
        own: dict[str, Tensor] = {}
        for layer, (A, B) in zip(self.layers, self.factors(), strict=True):
            own |= {f"lora.{layer.name}.A": A, f"lora.{layer.name}.B": B}
        own |= {f"theta.{name}": value for name, value in self.theta.named_parameters()}
        own |= {f"head.{name}": value for name, value in self.head_parameters().items()}
        if set(own) != set(tensors):
            differing = sorted(set(own) ^ set(tensors))[:3]
            raise InputError(f"the saved adapter has other tensors than this study: {differing}")
        for name, value in own.items():
            if value.shape != tensors[name].shape:
                raise InputError(
                    f"the saved adapter's {name} has shape {tuple(tensors[name].shape)};"
                    f" this study's has {tuple(value.shape)}"
                )
            value.copy_(tensors[name])


def _without(tensor: Tensor, fixed: Any) -> Tensor:
    kept = tensor.clone()
    kept[fixed] = 0
    return kept


def _mask_gradient(parameter: nn.Parameter, fixed: Any) -> None:
    hook = parameter.register_hook
    hook(lambda gradient: _without(gradient, fixed))  # type: ignore[no-untyped-call]


def _wrap(
    loaded: LoadedModel, layers: Sequence[LayerSpec], options: CoALoRAOptions, seed: int
) -> Any:
    try:
        import peft
    except ImportError as error:
        raise InputError(
            "peft is not installed; install the extra: pip install 'qsearch[llm]'"
        ) from error
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.rank * options.scaling,  # type: ignore[arg-type]  # PEFT takes floats
        target_modules=list(full_layer_names(loaded.module, layers)),
        modules_to_save=list(loaded.head) or None,
        task_type=_task_type(loaded.module),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(loaded.module, config, adapter_name=ADAPTER)


def _task_type(module: nn.Module) -> str | None:
    name = type(module).__name__
    if name.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "CAUSAL_LM" if name.endswith("ForCausalLM") else None
