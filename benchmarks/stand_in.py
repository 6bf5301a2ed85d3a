"""A stand-in for the loss of MiniLM on SST-2, fitted to recorded real losses, for many seeds fast.

To second order, quantization errors D change the loss of one example by its gradient times D, and
the mean loss by

    first = mean_n ⟨g_n, D⟩,    second = ½ mean_n ⟨g_n, D⟩²,

with the empirical Fisher information instead of the Hessian. Both come from gradients of the
validation examples at one configuration; the products ⟨g_n, D_ij⟩ of all layers and choices are
reduced to their principal components. The stand-in is a quadratic in first, second and the proxy
(without first²: it improved nothing), whose coefficients are fitted to real losses. It knows
gradients that no search method is given. Its first term is linear in the errors, as qsearch's
kernel has it, and an optimiser could drive it far beyond what was measured; so it saturates at the
greatest value among the real losses. Still, a method that learns linear effects has an advantage
here: the real losses count for more.

    python -m benchmarks.stand_in    fits, and prints how well; without its file, measures first
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.weights.sensitivity import recorded_calls
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from scipy import stats

from benchmarks.objectives import DATA, Objective, assembled, known_objective
from benchmarks.search_runs import distinct, indices_of, recorded_runs
from qsearch._arrays import Floats, Integers
from qsearch.plugins.protocols import Quantizer
from qsearch.search.allocation import allocate
from qsearch.space.configuration import LayerConfiguration
from qsearch.storage.checkpoints import read_adapter

NAME = "minilm-sst2-stand-in"
REAL = "minilm-sst2"
_FILE = DATA / REAL / "stand_in.safetensors"
_COMPONENTS = 16
"""Principal components kept of the products; 512 (all) fitted no better."""

_AROUND_BITS = 4.0
"""Average bits of the allocation whose gradients are taken."""


@dataclass(frozen=True)
class Gradients:
    """Products of gradients with quantization errors.

    Args:
        scores: Proxy scores (groups × choices).
        first: Mean of the examples' products (groups × choices).
        components: Principal components of the examples' products (components × groups × choices),
            such that half their squared length is the second-order term.
        limit: Value at which the first-order term saturates.
    """

    scores: Floats
    first: Floats
    components: Floats
    limit: float

    def terms(self, index: Integers) -> Floats:
        """Return what the loss is a linear function of (n × terms), of (n × groups)."""
        groups = np.arange(len(self.scores))
        proxy = self.scores[groups, index].sum(axis=1)
        first = self.limit * np.tanh(self.first[groups, index].sum(axis=1) / self.limit)
        second = 0.5 * (self.components[:, groups, index].sum(axis=2) ** 2).sum(axis=0)
        columns = [np.ones(len(index)), first, second, proxy]
        columns += [proxy**2, second**2, first * proxy, first * second, second * proxy]
        return np.column_stack(columns)


def gradients(saved: dict[str, Floats]) -> Gradients:
    """Return the measured gradients from what was saved."""
    return Gradients(
        known_objective(REAL).scores,
        saved["first"].astype(np.float64),
        saved["components"].astype(np.float64),
        float(saved["limit"]),
    )


def real_losses() -> tuple[Integers, Floats, list[str]]:
    """Return all distinct configurations with a recorded real loss, it, and the method.

    Returns:
        Choice indices (n × groups), losses (n) and the name of the method that found each (n).
    """
    tables = {"random": [pd.read_parquet(DATA / REAL / "random.parquet")]}
    for run, table in recorded_runs(REAL).items():
        tables.setdefault(run.method, []).append(table)
    rows = pd.concat(
        [table.assign(method=method) for method, found in tables.items() for table in found]
    )
    rows = distinct(rows)
    return indices_of(rows), rows["loss"].to_numpy(), rows["method"].tolist()


def fit_of(terms: Floats, loss: Floats) -> Floats:
    """Return coefficients (terms) of least squares."""
    return np.asarray(np.linalg.lstsq(terms, loss, rcond=None)[0])


def held_out_fit() -> dict[str, float]:
    """Return how the stand-in predicts losses of methods that it was not fitted to."""
    saved = load_arrays(_FILE)
    return {key: round(float(saved[f"held_out_{key}"]), 4) for key in ("losses", "r2", "spearman")}


def _held_out_fit(terms: Floats, loss: Floats, methods: list[str]) -> dict[str, Floats]:
    """Predict each method's losses by a fit to all others', near-copies being within methods."""
    group = np.array(methods)
    predicted = np.zeros(len(loss))
    for method in sorted(set(methods)):
        left_out = group == method
        coefficients = fit_of(terms[~left_out], loss[~left_out])
        predicted[left_out] = terms[left_out] @ coefficients
    figures = {
        "losses": len(loss),
        "r2": 1 - ((loss - predicted) ** 2).mean() / loss.var(),
        "spearman": stats.spearmanr(loss, predicted).statistic,
    }
    return {f"held_out_{key}": np.array(value, dtype=np.float64) for key, value in figures.items()}


def stand_in() -> Objective:
    """Return the stand-in, with the information that searches of the real objective start from."""
    saved = load_arrays(_FILE)
    measured, coefficients = gradients(saved), saved["coefficients"]

    def evaluate(index: Integers) -> float:
        return float((measured.terms(index[None]) @ coefficients)[0])

    return replace(known_objective(REAL), name=NAME, evaluate=evaluate)


def main() -> None:
    """Measure the gradients if need be, fit the coefficients and print the fit."""
    if not _FILE.is_file():
        _measure()
    saved = load_arrays(_FILE)
    index, loss, methods = real_losses()
    groups = np.arange(saved["first"].shape[0])
    largest = np.abs(saved["first"][groups, index].sum(axis=1)).max()
    saved["limit"] = np.array(largest, dtype=np.float64)
    terms = gradients(saved).terms(index)
    saved |= {"coefficients": fit_of(terms, loss), **_held_out_fit(terms, loss, methods)}
    save_arrays(saved, _FILE)
    print(held_out_fit())


def _measure() -> None:
    """Measure products of the validation examples' gradients with every quantization error."""
    components = assembled(REAL)
    trainer = components.trainer
    assert isinstance(trainer, CoALoRATrainer)
    trainer.load_state(read_adapter(DATA / REAL, 1)[0])
    task, adapted = trainer.study.task, trainer.study.adapted
    adapted.peft_model.eval()
    around = components.space.decode(
        allocate(components.space, known_objective(REAL).scores, _AROUND_BITS)
    )
    adapted.use(around)
    modules = [layer.base_layer for layer in adapted.lora_layers]
    calls: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in modules]
    for batch in task.batches("validation", 32):
        with recorded_calls(modules) as recorded, torch.enable_grad():
            losses = task.score(adapted.logits(batch), batch).losses
            outputs = [output for _, output in recorded.values()]
            slopes = torch.autograd.grad(losses.sum(), outputs)
        for (position, (inputs, _)), slope in zip(recorded.items(), slopes, strict=True):
            calls[position].append((inputs, slope))
    choices = components.space.choices.layer_configurations
    products = torch.stack(
        [
            _products(weight, calls[position], components.quantizer, choices)
            for position, weight in enumerate(adapted.weights.originals)
        ],
        dim=1,
    )
    examples = len(products)
    _, lengths, directions = torch.linalg.svd(
        products.double().flatten(1) / examples**0.5, full_matrices=False
    )
    components = (lengths[:, None] * directions)[:_COMPONENTS].view(-1, *products.shape[1:])
    arrays = {
        "first": products.mean(dim=0).float().numpy(),
        "components": components.half().numpy(),
    }
    save_arrays(arrays, _FILE)


@torch.no_grad()
def _products(
    weight: torch.Tensor,
    calls: list[tuple[torch.Tensor, torch.Tensor]],
    quantizer: Quantizer,
    choices: tuple[LayerConfiguration, ...],
    chunk: int = 48,
) -> torch.Tensor:
    """Return ⟨g_n, D_c⟩ (examples × choices) of one layer, from its inputs and output slopes."""
    gradient = torch.cat(
        [torch.einsum("nto,nti->noi", slope, inputs).flatten(1) for inputs, slope in calls]
    )
    rows = []
    for start in range(0, len(choices), chunk):
        errors = [
            (quantizer.dequantize(quantizer.quantize(weight, choice)) - weight).flatten()
            for choice in choices[start : start + chunk]
        ]
        rows.append(gradient @ torch.stack(errors).T)
    return torch.cat(rows, dim=1)


if __name__ == "__main__":
    main()
