"""One model in memory with switchable quantized weights, a LoRA adapter and θ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.errors import InputError
from qsearch.models.discovery import full_layer_names
from qsearch.plugins.protocols import LoadedModel, Quantizer
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch_coalora.adapter.folding import FoldedProjections, random_basis
from qsearch_coalora.adapter.layer_ranks import LayerRanks
from qsearch_coalora.adapter.lora import ADAPTER, wrap_in_lora
from qsearch_coalora.adapter.residual_rows import ResidualRows
from qsearch_coalora.adapter.row_entries import PREFIX, RowEntries
from qsearch_coalora.adapter.shape import AdapterShape
from qsearch_coalora.adapter.theta import Theta
from qsearch_coalora.settings.device import parse_device
from qsearch_coalora.settings.options import TrainingOptions
from qsearch_coalora.weights.cache import BoundedCache
from qsearch_coalora.weights.input_norm import InputNorm, input_norms
from qsearch_coalora.weights.switching import QuantizedWeights
from qsearch_coalora.weights.tables import Table, table_at

Batches = Iterable[Mapping[str, Tensor]]


class AdaptedModel:
    """The base model, its quantized weights, the adapter and the task head.

    Base weights and all biases of the base model are frozen. The first ``shape.fixed_rank`` rows
    of each A and columns of each B hold residual factors and are not trained. Of the layers, which
    are all quantized, the tables come last and have no LoRA; so a position is of the same layer
    among all layers and among those with LoRA.

    The initial adapter and θ are drawn from the seed.
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
        self.layers = tuple(layers)
        self.adapted_layers = tuple(layer for layer in layers if not layer.is_table)
        assert self.layers[: len(self.adapted_layers)] == self.adapted_layers
        self.options = options
        self.shape = shape
        self.head_names = loaded.head
        paths = full_layer_names(loaded.module, layers)
        adapted, tables = paths[: len(self.adapted_layers)], paths[len(self.adapted_layers) :]
        self.tables = tuple(table_at(loaded.module, path) for path in tables)
        self.peft_model = wrap_in_lora(loaded, adapted, options, seed).to(options.device)
        base = self.peft_model.get_base_model()
        self.lora_layers: tuple[Any, ...] = tuple(base.get_submodule(path) for path in adapted)
        self.theta: Theta | None = None
        bases = None
        if shape.theta is not None:
            generator = torch.Generator().manual_seed(seed)
            choices = quantizer.choices()
            adapted_layers = self.adapted_layers
            self.theta = Theta(choices, adapted_layers, options.rank, shape.theta, generator)
            self.theta.to(options.device).requires_grad_(shape.theta_rate > 0)
            if shape.theta.adjustment == "additive":
                bases = [
                    random_basis(options.rank, layer.shape[1], generator).to(options.device)
                    for layer in self.adapted_layers
                ]
        names = tuple(layer.name for layer in self.adapted_layers)
        self.ranks = LayerRanks(names, options.rank, quantizer.choices().names)
        projections = [layer.lora_A[ADAPTER] for layer in self.lora_layers]
        self.projections = FoldedProjections(projections, bases)
        self.cache = BoundedCache(options.cache_mebibytes * 2**20)
        modules = [layer.base_layer for layer in self.lora_layers]
        modules += [table.modules[0] for table in self.tables]
        self.weights = QuantizedWeights(layers, modules, quantizer, self.cache)
        entries = None
        if shape.rows_rate is not None:
            entries = RowEntries(names, tuple(quantizer.choices().layer_configurations))
        self.residual = ResidualRows(
            shape.fixed_rank, options.scaling, names, list(self.factors()), self.weights, entries
        )
        self.followers: list[Callable[[Configuration], None]] = []
        """Called after each activation, with the configuration."""

    # Which configuration the model is under

    @torch.no_grad()
    def use(self, configuration: Configuration) -> None:
        """Make the model the one of a configuration: weights, residual factors, adjustments."""
        self.activate(configuration)
        self.projections.set(self.adjustments(configuration))

    def activate(self, configuration: Configuration) -> None:
        """Put a configuration's quantized weights, and its residual factors, into the model.

        Adjustments, which were of another A, are cleared.
        """
        plain = self.ranks.plain(configuration)
        self.projections.clear()
        self.projections.limit(self.ranks.of(configuration))
        self.weights.activate(plain)
        if self.residual.rank:
            active = [layer.base_layer.weight.data for layer in self.lora_layers]
            self.residual.place(plain, active)
        for follow in self.followers:
            follow(configuration)

    def adjustments(self, configuration: Configuration) -> Tensor | None:
        """Return U of a configuration (adapted layers × r × r), with its graph to θ.

        None without θ.
        """
        if self.theta is None:
            return None
        codes = self.theta.encode(configuration, self.adapted_layers)
        U: Tensor = self.theta(codes.to(self.options.device))
        return U

    @contextmanager
    def unquantized(self) -> Iterator[None]:
        """Make it, inside, the model with its original weights and the adapter next to them.

        Neither adjustments nor residual factors are used: they are for what quantizing changes.
        """
        self.projections.clear()
        self.weights.restore()
        for A, B in self.factors():
            self.residual.clear(A, B)
        scaling = self.lora_layers[0].scaling[ADAPTER]
        self._scale(self.options.scaling)  # Also where it is merged otherwise.
        try:
            yield
        finally:
            self._scale(scaling)

    def _scale(self, scaling: float) -> None:
        for layer in self.lora_layers:
            layer.scaling[ADAPTER] = scaling

    def merge(self, merged: bool) -> None:
        """Quantize the weights with the adapter merged into them, or leave it next to them.

        A merged adapter is W + B·A·(α/r), quantized as one; nothing is added next to it then.
        """

        def product(position: int, configuration: LayerConfiguration) -> Tensor | None:
            if position >= len(self.lora_layers):
                return None
            layer = self.lora_layers[position]
            A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            result: Tensor = (B @ A).detach() * self.options.scaling
            return result

        self.weights.add(product if merged else None)
        self._scale(0.0 if merged else self.options.scaling)

    # What the base model's layers are given

    @contextmanager
    def base_model(self) -> Iterator[None]:
        """Make it the base model inside: its original weights, in evaluation, without adapter."""
        self.weights.restore()
        self.peft_model.eval()
        try:
            with self.peft_model.disable_adapter():
                yield
        finally:
            # PEFT makes every factor trainable when it enables the adapter again.
            self.residual.freeze()

    @property
    def named_tables(self) -> dict[str, Table]:
        """The tables that are layers, by the layers' names."""
        others = self.layers[len(self.adapted_layers) :]
        return {layer.name: table for layer, table in zip(others, self.tables, strict=True)}

    @property
    def multiplying(self) -> dict[str, nn.Linear]:
        """The modules that multiply by the layers' weights, by the layers' names.

        Of a table, it is the output head, if it is one.
        """
        names = [layer.name for layer in self.adapted_layers]
        modules: dict[str, nn.Linear] = dict(zip(names, self.lora_layers, strict=True))
        heads = {name: table.head for name, table in self.named_tables.items()}
        return modules | {name: head for name, head in heads.items() if head is not None}

    def input_norms(self, batches: Batches, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the norm of each adapted layer's inputs in the base model, as tensors by name.

        The generator draws where the search for principal components starts.
        """
        with self.base_model():
            norms = input_norms(self.lora_layers, self.logits, batches, generator)
        return {
            f"{layer.name}.{part}": tensor
            for layer, norm in zip(self.adapted_layers, norms, strict=True)
            if norm is not None
            for part, tensor in norm.tensors().items()
        }

    def use_input_norms(self, tensors: Mapping[str, Tensor]) -> None:
        """Take residual factors in the norms that :meth:`input_norms` returned from now on."""
        self.residual.norms = [InputNorm.of(tensors, layer.name) for layer in self.adapted_layers]

    def input_sizes(self) -> list[float | None]:
        """Return each adapted layer's root mean square input, None where it was not measured."""
        sizes = self.weights.input_sizes()[: len(self.adapted_layers)]
        return [
            own if norm is None else norm.size
            for norm, own in zip(self.residual.norms, sizes, strict=True)
        ]

    # Running it

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

    # What is trained

    def factors(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Yield each adapted layer's A (r × input features) and B (output features × r)."""
        for layer in self.lora_layers:
            yield layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight

    @torch.no_grad()
    def folded_factors(self, configuration: Configuration) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each adapted layer's A′ (r × input features) and B (output features × r).

        They are those of plain LoRA, of the layer's own rank r.

        Weights in the model stay as they are; one layer is dequantized at a time.
        """
        U, plain = self.adjustments(configuration), self.ranks.plain(configuration)
        ranks = self.ranks.of(configuration)
        for position, (pair, rank) in enumerate(zip(self.factors(), ranks, strict=True)):
            A, B = (factor.detach().clone() for factor in pair)
            self.residual.put_into(position, A, B, plain)
            folded = A if U is None else self.projections.fold(position, A, U[position])
            yield folded[:rank], B[:, :rank]

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the task head by name."""
        base: Any = self.peft_model.get_base_model()
        return {
            f"{name}.{inner}": parameter
            for name in self.head_names
            for inner, parameter in base.get_submodule(name)
            .modules_to_save[ADAPTER]
            .named_parameters()
        }

    def parameter_groups(self, configurations: Sequence[Configuration]) -> list[dict[str, Any]]:
        """Return what is trained on a set, in groups with their learning rates, for AdamW."""
        shared = self.shape.fixed_rank < self.options.rank
        adapter = [p for pair in self.factors() for p in pair if shared and p.requires_grad]
        rate = self.options.learning_rate
        groups = [{"params": [*adapter, *self.head_parameters().values()], "lr": rate}]
        if self.theta is not None and self.shape.theta_rate:
            groups.append({"params": list(self.theta.parameters()), "lr": self.shape.theta_rate})
        if self.shape.rows_rate is not None:
            # They decay towards nothing, not towards the residual.
            groups += [
                {"params": rows, "lr": self.shape.rows_rate * share, "weight_decay": 0.0}
                for share, rows in self.residual.rate_groups(configurations).items()
            ]
        return groups

    def _named_trained(self) -> dict[str, nn.Parameter]:
        named: dict[str, nn.Parameter] = {}
        for layer, (A, B) in zip(self.adapted_layers, self.factors(), strict=True):
            named |= {f"lora.{layer.name}.A": A, f"lora.{layer.name}.B": B}
        if self.theta is not None:
            named |= {f"theta.{name}": value for name, value in self.theta.named_parameters()}
        return named | {f"head.{name}": value for name, value in self.head_parameters().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of all trained tensors by name, on the CPU.

        Rows that hold residual factors are zero: they follow from the configuration.
        """
        copies = {
            name: value.detach().clone().cpu().contiguous()
            for name, value in self._named_trained().items()
        }
        for layer in self.adapted_layers:
            self.residual.clear(copies[f"lora.{layer.name}.A"], copies[f"lora.{layer.name}.B"])
        entries = self.residual.entries
        return copies if entries is None else copies | entries.tensors()

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` returned.

        Raises:
            InputError: If a tensor is missing, unknown or of another shape.
        """
        own = self._named_trained()
        if (entries := self.residual.entries) is not None:
            rows = {name: one for name, one in tensors.items() if name.startswith(PREFIX)}
            entries.load(rows, self.lora_layers[0].base_layer.weight.device)
            tensors = {name: one for name, one in tensors.items() if name not in rows}
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
