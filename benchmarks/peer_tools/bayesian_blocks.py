"""torchao's Bayesian search for mixed precision, reimplemented: Ax over the bits of each block.

Facts are those of the prototype that pytorch/ao had until 87e05e5 (``mixed_precision/scripts/``:
``BO_acc_modelsize.py``, ``fit.py``): one bit-width a block, ten first samples whose bits are drawn
by the blocks' sensitivity (FIT), and Ax's default strategy for perplexity under a bound of the
model's size. Its programs know one family of models, on CUDA. Each size has a search of its own,
here of as many evaluations as the study of qsearch has for all sizes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig

from benchmarks.peer_tools.inputs import Inputs, read_inputs, write_allocations
from benchmarks.peer_tools.study import PeerStudy
from qsearch._arrays import Floats, Integers

FIRST = 10
SENSITIVE = 0.8
"""Share of the larger of the two bit-widths around a budget that its most sensitive blocks get."""


def main(folder: Path, to: Path) -> None:
    """Write the best allocation of a search for each size."""
    inputs = read_inputs(folder)
    study = PeerStudy(Path(inputs.plan))
    blocks = np.array([study.space.layers[one.members[0]].block for one in study.space.groups])
    names, block_of = np.unique(blocks, return_inverse=True)
    scores = study.scores()
    sensitivity = np.zeros(len(names))
    np.add.at(sensitivity, block_of, scores[:, 0])
    search = study.spec.search
    assert isinstance(search.initial, int)
    trials = search.initial + search.rounds * search.candidates
    generator = np.random.default_rng(study.spec.seed)
    found = {}
    for size in inputs.sizes:
        index = search_blocks(study, inputs, size, block_of, sensitivity, trials, generator)
        found[size] = study.allocation(study.space.decode(index))
        write_allocations(to, found)


def search_blocks(
    study: PeerStudy,
    inputs: Inputs,
    size: float,
    block_of: Integers,
    sensitivity: Floats,
    trials: int,
    generator: np.random.Generator,
) -> Integers:
    """Return the best configuration (groups) within a size that a search finds.

    Args:
        study: The study.
        inputs: What is asked for.
        size: The bound of average bits.
        block_of: Block of each group (groups).
        sensitivity: Of each block (blocks).
        trials: Configurations to evaluate.
        generator: Source of first samples, and of Ax's seed.
    """
    choices = {
        int(one["bits"]): n for n, one in enumerate(study.space.choices.layer_configurations)
    }
    blocks = [f"bitwidth_{number}" for number in range(len(sensitivity))]
    client = Client(random_seed=int(generator.integers(2**31 - 1)))
    client.configure_experiment(
        [
            ChoiceParameterConfig(
                name=name, values=list(inputs.bits), parameter_type="int", is_ordered=True
            )
            for name in blocks
        ],
        name="blocks",
    )
    client.configure_optimization("-perplexity", outcome_constraints=[f"size <= {size:.10f}"])
    best: tuple[float, Integers] | None = None
    for number in range(trials):
        if number < FIRST:
            drawn = first_sample(inputs, size, sensitivity, generator)
            parameters = dict(zip(blocks, drawn, strict=True))
            trial = client.attach_trial(parameters)
        else:
            ((trial, parameters),) = client.get_next_trials(max_trials=1).items()
        bits = [choices[int(parameters[name])] for name in blocks]
        index = np.array(bits, dtype=np.int64)[block_of]
        average = float(study.space.average_bits(index))
        perplexity = study.evaluate(study.space.decode(index)).metrics["perplexity"].value
        client.complete_trial(trial, raw_data={"perplexity": perplexity, "size": (average, 0.0)})
        if average <= size and (best is None or perplexity < best[0]):
            best = perplexity, index
    assert best is not None
    return best[1]


def first_sample(
    inputs: Inputs, size: float, sensitivity: Floats, generator: np.random.Generator
) -> list[int]:
    """Return bits of each block, drawn by sensitivity so that their mean is about a budget."""
    below = max(bits for bits in inputs.bits if bits + inputs.scale_bits <= size)
    above = min((bits for bits in inputs.bits if bits > below), default=below)
    share = (size - inputs.scale_bits - below) / max(above - below, 1)
    sensitive = sensitivity.argsort().argsort() >= (1 - share) * len(sensitivity)
    likely = np.where(sensitive, SENSITIVE, (1 - SENSITIVE) * share / (1 - share))
    drawn: list[int] = np.where(generator.random(len(likely)) < likely, above, below).tolist()
    return drawn


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
