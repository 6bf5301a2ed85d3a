"""One model in memory with switchable quantized weights, a LoRA adapter and θ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.errors import EvaluationError, InputError
from qsearch.plugins.protocols import LoadedModel, Quantizer, Scores, Task
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch_coalora.adapter.folding import FoldedProjections, random_basis
from qsearch_coalora.adapter.residual import (
    RESIDUAL_RANK,
    Factors,
    require_rank,
    residual_factors,
)
from qsearch_coalora.adapter.theta import Theta, ThetaOptions
from qsearch_coalora.models.discovery import full_layer_names
from qsearch_coalora.training.device import parse_device
from qsearch_coalora.training.options import TrainingOptions
from qsearch_coalora.weights.cache import BoundedCache, QuantizedWeights
from qsearch_coalora.weights.input_norm import InputNorm, input_norms

ADAPTER = "default"


@dataclass(frozen=True)
class AdapterShape:
    """What there is beside plain LoRA.

    Args:
        theta: Shape of θ, or None without it.
        theta_rate: Peak rate for θ; 0 leaves it as it is.
        theta_start: Share of round 1's steps that go by before θ is used and trained.
        fixed_rank: How much of the rank holds residual factors.
    """

    theta: ThetaOptions | None = None
    theta_rate: float = 0.0
    theta_start: float = 0.0
    fixed_rank: int = 0


class AdaptedModel:
    """The base model, its quantized weights, the adapter and the task head.

    Base weights and all biases of the base model are frozen. The first ``shape.fixed_rank`` rows
    of each A and columns of each B hold residual factors and are not trained.

    Args:
        loaded: The model with its task head.
        layers: Its quantizable layers.
        quantizer: The quantizer.
        options: The trainer's options.
        shape: What there is beside plain LoRA.
        seed: Draws the initial adapter and θ.

    Raises:
        InputError: If PEFT is not installed, or the rank is too great for a layer.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        layers: Sequence[LayerSpec],
        quantizer: Quantizer,
        options: TrainingOptions,
        shape: AdapterShape,
        seed: int,
    ) -> None:
        require_rank(shape.fixed_rank, layers, RESIDUAL_RANK)
        self.layers = tuple(layers)
        self.options = options
        self.shape = shape
        self.seed = seed
        self.head_names = loaded.head
        self.peft_model = _wrap(loaded, layers, options, seed).to(options.device)
        base = self.peft_model.get_base_model()
        self.lora_layers: tuple[Any, ...] = tuple(
            base.get_submodule(name) for name in full_layer_names(loaded.module, layers)
        )
        self.theta: Theta | None = None
        bases = None
        if shape.theta is not None:
            generator = torch.Generator().manual_seed(seed)
            self.theta = Theta(quantizer.choices(), layers, options.rank, shape.theta, generator)
            self.theta.to(options.device).requires_grad_(shape.theta_rate > 0)
            if shape.theta.adjustment == "additive":
                bases = [
                    random_basis(options.rank, layer.shape[1], generator).to(options.device)
                    for layer in layers
                ]
        projections = [layer.lora_A[ADAPTER] for layer in self.lora_layers]
        self.projections = FoldedProjections(projections, bases)
        self.cache = BoundedCache(options.cache_mebibytes * 2**20)
        self.weights = QuantizedWeights(
            layers, [layer.base_layer for layer in self.lora_layers], quantizer, self.cache
        )
        self._norms: Sequence[InputNorm | None] = [None] * len(self.layers)
        self._followers: list[Callable[[Configuration], None]] = []
        if shape.fixed_rank:
            self._fix_residual_rank()

    def _fix_residual_rank(self) -> None:
        fixed = self.shape.fixed_rank
        for A, B in self.factors():
            with torch.no_grad():
                A[:fixed], B[:, :fixed] = 0, 0
            if fixed < self.options.rank:
                _mask_gradient(A, slice(0, fixed))
                _mask_gradient(B, (slice(None), slice(0, fixed)))
        self._freeze_what_is_not_trained()

    def _freeze_what_is_not_trained(self) -> None:
        """Take the factors out of training where residual factors are all of the rank."""
        if self.shape.fixed_rank == self.options.rank:
            for pair in self.factors():
                for factor in pair:
                    factor.requires_grad_(False)

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

    def merge(self, merged: bool) -> None:
        """Quantize the weights with the adapter merged into them, or leave it beside them.

        A merged adapter is W + B·A·(α/r), quantized as one; nothing is added beside it then.
        """

        def product(position: int, configuration: LayerConfiguration) -> Tensor:
            layer = self.lora_layers[position]
            A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            result: Tensor = (B @ A).detach() * self.options.scaling
            return result

        self.weights.add(product if merged else None)
        for layer in self.lora_layers:
            layer.scaling[ADAPTER] = 0.0 if merged else self.options.scaling

    def activate(self, configuration: Configuration) -> None:
        """Put a configuration's quantized weights, and its residual factors, into the model.

        Adjustments, which were of another A, are cleared.
        """
        self.projections.clear()
        self.weights.activate(configuration)
        if self.shape.fixed_rank:
            self._place_residual_factors(configuration)
        for follow in self._followers:
            follow(configuration)

    @contextmanager
    def unquantized(self) -> Iterator[None]:
        """Make it, inside, the model with its original weights and the adapter beside them.

        Neither adjustments nor residual factors are used: they are for what quantizing changes.
        """
        self.projections.clear()
        self.weights.restore()
        fixed = self.shape.fixed_rank
        with torch.no_grad():
            for A, B in self.factors():
                A[:fixed], B[:, :fixed] = 0, 0
        scaling = [layer.scaling[ADAPTER] for layer in self.lora_layers]
        for layer in self.lora_layers:
            layer.scaling[ADAPTER] = self.options.scaling  # Also where it is merged otherwise.
        try:
            yield
        finally:
            for layer, own in zip(self.lora_layers, scaling, strict=True):
                layer.scaling[ADAPTER] = own

    def after_activation(self, follow: Callable[[Configuration], None]) -> None:
        """Have a function called after each activation, with the configuration."""
        self._followers.append(follow)

    def measure_inputs(
        self, batches: Iterable[Mapping[str, Tensor]], generator: torch.Generator
    ) -> None:
        """Take residual factors in the norm of the layers' inputs from now on.

        The inputs are those of the base model: its original weights, without the adapter.

        Args:
            batches: What the base model is run on.
            generator: Draws where the search for principal components starts.
        """
        with self.base_model():
            self._norms = input_norms(self.lora_layers, self.logits, batches, generator)

    @contextmanager
    def base_model(self) -> Iterator[None]:
        """Make it the base model inside: its original weights, in evaluation, without adapter."""
        self.weights.restore()
        self.peft_model.eval()
        with self.peft_model.disable_adapter():
            yield
        # PEFT makes every factor trainable when it enables the adapter again.
        self._freeze_what_is_not_trained()

    def input_sizes(self) -> list[float | None]:
        """Return each layer's root mean square input, None where it was not measured."""
        return [
            own if norm is None else norm.size
            for norm, own in zip(self._norms, self.weights.input_sizes(), strict=True)
        ]

    @torch.no_grad()
    def _place_residual_factors(self, configuration: Configuration) -> None:
        # Always all layers: an optimizer's weight decay has touched the fixed rows too.
        fixed = self.shape.fixed_rank
        for position, (A, B) in enumerate(self.factors()):
            active = self.lora_layers[position].base_layer.weight.data
            chosen = configuration[self.layers[position].name]
            found = self._residual_factors(position, chosen, partial(Tensor.detach, active))
            A[:fixed] = found.L2
            B[:, :fixed] = found.L1 / self.options.scaling

    def _residual_factors(
        self,
        position: int,
        configuration: LayerConfiguration,
        dequantize: Callable[[], Tensor],
    ) -> Factors:
        def make() -> Factors:
            dequantized = dequantize()
            if not dequantized.isfinite().all():
                raise EvaluationError(
                    f"layer {self.layers[position].name!r} quantized as {dict(configuration)} has"
                    " values that are not finite"
                )
            generator = torch.Generator().manual_seed(position)
            original = self.weights.originals[position]
            norm = self._norms[position]
            return residual_factors(original, dequantized, self.shape.fixed_rank, generator, norm)

        return self.cache.get(("residual", position, configuration), make)

    @torch.no_grad()
    def folded_factors(self, configuration: Configuration) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each layer's A′ (r × input features) and B (output features × r) as plain LoRA.

        Weights in the model stay as they are; one layer is dequantized at a time.
        """
        U, fixed = self.adjustments(configuration), self.shape.fixed_rank
        for position, (A, B) in enumerate(self.factors()):
            A, B = A.detach().clone(), B.detach().clone()
            if fixed:
                chosen = configuration[self.layers[position].name]
                dequantize = partial(self.weights.dequantized, position, chosen)
                found = self._residual_factors(position, chosen, dequantize)
                A[:fixed], B[:, :fixed] = found.L2, found.L1 / self.options.scaling
            yield (A if U is None else self.projections.fold(position, A, U[position])), B

    def adjustments(self, configuration: Configuration) -> Tensor | None:
        """Return U of a configuration (layers × r × r), with its graph to θ; None without θ."""
        if self.theta is None:
            return None
        codes = self.theta.encode(configuration, self.layers)
        U: Tensor = self.theta(codes.to(self.options.device))
        return U

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Run the model on a batch; all of its tensors but ``labels`` are model inputs."""
        inputs = {
            name: tensor.to(self.options.device)
            for name, tensor in batch.items()
            if name != "labels"
        }
        # Autocast casts each factor's input; PEFT would first cast it to the factor's dtype.
        casts = not torch.is_autocast_enabled(parse_device(self.options.device).type)
        for layer in self.lora_layers:
            layer.cast_input_dtype_enabled = casts
        output = self.peft_model(**inputs)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained, in groups with their learning rates, for AdamW."""
        adapter = [p for pair in self.factors() for p in pair if p.requires_grad]
        rate = self.options.learning_rate
        groups = [{"params": [*adapter, *self.head_parameters().values()], "lr": rate}]
        if self.theta is not None and self.shape.theta_rate:
            groups.append({"params": list(self.theta.parameters()), "lr": self.shape.theta_rate})
        return groups

    def _named_trained(self) -> dict[str, nn.Parameter]:
        found: dict[str, nn.Parameter] = {}
        for layer, (A, B) in zip(self.layers, self.factors(), strict=True):
            found |= {f"lora.{layer.name}.A": A, f"lora.{layer.name}.B": B}
        if self.theta is not None:
            found |= {f"theta.{name}": value for name, value in self.theta.named_parameters()}
        return found | {f"head.{name}": value for name, value in self.head_parameters().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of all trained tensors by name, on the CPU.

        Rows that hold residual factors are zero: they follow from the configuration.
        """
        fixed = self.shape.fixed_rank
        found: dict[str, Tensor] = dict(self._named_trained())
        for layer, (A, B) in zip(self.layers, self.factors(), strict=True):
            found[f"lora.{layer.name}.A"] = _without(A, slice(0, fixed))
            found[f"lora.{layer.name}.B"] = _without(B, (slice(None), slice(0, fixed)))
        return {name: value.detach().clone().cpu().contiguous() for name, value in found.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` returned.

        Raises:
            InputError: If a tensor is missing, unknown or of another shape.
        """
        own = self._named_trained()
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


def score(task: Task, logits: Tensor, batch: Mapping[str, Tensor]) -> Scores:
    """Have a task score a batch's logits, in float32 and on their device."""
    on_device = {name: tensor.to(logits.device) for name, tensor in batch.items()}
    return task.score(logits.float(), on_device)


def _without(tensor: Tensor, fixed: Any) -> Tensor:
    kept = tensor.clone()
    kept[fixed] = 0
    return kept


def _mask_gradient(parameter: nn.Parameter, fixed: Any) -> None:
    hook = parameter.register_hook
    hook(lambda gradient: _without(gradient, fixed))  # type: ignore[no-untyped-call]


def _wrap(
    loaded: LoadedModel, layers: Sequence[LayerSpec], options: TrainingOptions, seed: int
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
    if options.gradient_checkpointing:
        # Without reentrance, a layer's second forward pass sees the same U as the first.
        loaded.module.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(loaded.module, config, adapter_name=ADAPTER)


def _task_type(module: nn.Module) -> str | None:
    name = type(module).__name__
    if name.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "CAUSAL_LM" if name.endswith("ForCausalLM") else None
