"""The losses that search methods are compared on: real models with a fixed adapter.

Each objective keeps in ``benchmarks/data/NAME`` what makes it reproducible: the trained adapter,
quantization errors and sensitivities, as safetensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

from qsearch._arrays import Floats, Integers
from qsearch.plugins.capabilities import SupportsExampleCount
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.search.allocation import allocate_front
from qsearch.search.initial_set import initial_configurations
from qsearch.search.layer_scores import error_scores, weighted_scores
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.spec.study_spec import load_spec
from qsearch.storage.checkpoints import read_adapter, write_adapter
from qsearch.surrogate.error_correlation import error_correlation

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
SHARED = ROOT.parent / "shared" / "data"
BITS = (2.25, 7.25)
WARM_BUDGETS = 10
"""Budgets of the warm start above the least, spread evenly over the interval."""

_PROXY = "proxy.safetensors"


@dataclass(frozen=True)
class Source:
    """The ready study that an objective comes from.

    Args:
        study: Its name.
        overrides: What differs, as ``section.field=value``.
        wide: What else differs so that the validation examples are those of the objective, and
            many more.
    """

    study: str
    overrides: tuple[str, ...]
    wide: tuple[str, ...]


_STUDIES = {
    "minilm-sst2": Source(
        "sst2", ("trainer.cache_mebibytes=3072",), ("task.validation_examples=null",)
    ),
    "smollm2-wikitext2": Source(
        "smollm2",
        (
            "quantizer={name: normal-float}",
            "space.tied=none",
            "trainer.init=shared",
            "trainer.cache_mebibytes=6144",
            "task.length=128",
            "task.validation_tokens=512",
        ),
        ("task.validation_tokens=4608",),
    ),
}


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss over configurations, and what is known of it without an evaluation.

    Args:
        name: Such as ``minilm-sst2``.
        space: The space.
        scores: Quantization error × sensitivity (groups × choices).
        correlation: Correlation of the errors of two choices (choices × choices).
        examples: How many examples a loss is a mean over.
        warm_start: The allocator's front that warm runs start from (budgets × groups).
        evaluate: Returns the loss of choice indices (groups).
    """

    name: str
    space: ConfigurationSpace
    scores: Floats
    correlation: Floats
    examples: int
    warm_start: Integers
    evaluate: Callable[[Integers], float]


def minilm_sst2() -> Objective:
    """MiniLM-L6 on SST-2, 180 variables: the loss on 512 phrases under one trained adapter."""
    components = assembled("minilm-sst2")
    folder = DATA / "minilm-sst2"
    (folder / "state").mkdir(parents=True, exist_ok=True)
    if not (folder / "state" / "adapter-1.safetensors").is_file():
        report = components.trainer.train(
            [components.space.decode(i) for i in _training_set(components)], 1
        )
        write_adapter(folder, 1, components.trainer.state(), report)
    components.trainer.load_state(read_adapter(folder, 1)[0])
    return _objective("minilm-sst2", components, folder)


def smollm2_wikitext2() -> Objective:
    """SmolLM2-135M on WikiText-2, 1,050 variables: the loss on 512 tokens, without an adapter."""
    components = assembled("smollm2-wikitext2")
    folder = DATA / "smollm2-wikitext2"
    folder.mkdir(parents=True, exist_ok=True)
    return _objective("smollm2-wikitext2", components, folder)


def assembled(name: str, is_wide: bool = False) -> StudyComponents:
    """Return the components of the study behind an objective, if asked with many more examples."""
    os.environ.setdefault("QSEARCH_DATA", str(SHARED))
    source = _STUDIES[name]
    path = ROOT / "studies" / f"{source.study}.yaml"
    overrides = (*source.overrides, *(source.wide if is_wide else ()))
    return build_components(load_spec(path, overrides), str(path))


@dataclass(frozen=True, eq=False)
class Wide:
    """An objective's model, on the objective's examples and many more.

    Args:
        components: The study behind it, with these examples for validation.
        seen: How many of them are the objective's.
    """

    components: StudyComponents
    seen: int

    def unseen_loss(self, index: Integers, seen_loss: float) -> float:
        """Return the loss of a configuration on the examples that are not the objective's.

        Args:
            index: Choice indices (groups).
            seen_loss: Loss on the objective's examples.
        """
        loss = self.components.trainer.evaluate(
            [self.components.space.decode(index)], "validation"
        )[0].loss
        assert isinstance(self.components.task, SupportsExampleCount)
        examples = self.components.task.examples("validation")
        assert examples is not None
        return (examples * loss - self.seen * seen_loss) / (examples - self.seen)


def wide(name: str) -> Wide:
    """Return an objective's model with many more examples."""
    components = assembled(name, is_wide=True)
    if (DATA / name / "state" / "adapter-1.safetensors").is_file():
        components.trainer.load_state(read_adapter(DATA / name, 1)[0])
    return Wide(components, known_objective(name).examples)


def _quantization_error(components: StudyComponents) -> Floats:
    return components.trainer.quantization_error(components.space.choices.layer_configurations)


def _training_set(components: StudyComponents) -> list[Integers]:
    generator = np.random.default_rng([components.spec.seed, 0])
    space, error = components.space, _quantization_error(components)
    wanted = initial_configurations(space, error, error_scores(space, error), 24, BITS, generator)
    return [index for _, index in wanted]


def _objective(name: str, components: StudyComponents, folder: Path) -> Objective:
    path = folder / _PROXY
    assert isinstance(components.task, SupportsExampleCount)
    if not path.is_file():
        error = _quantization_error(components)
        configurations = [components.space.decode(index) for index in _training_set(components)]
        sensitivity = components.trainer.sensitivity(configurations, 1)
        budgets = np.linspace(*BITS, WARM_BUDGETS + 1)
        budgets[0] += 0.05  # At the very edge, hardly anything could be better.
        scores = weighted_scores(components.space, error, sensitivity)
        save_arrays(
            {
                "quantization_error": np.ascontiguousarray(error),
                "sensitivity": sensitivity,
                "warm_start": allocate_front(components.space, scores, budgets.tolist()),
                "examples": np.array(components.task.examples("validation")),
            },
            path,
        )

    trainer = components.trainer

    def evaluate(index: Integers) -> float:
        return trainer.evaluate([components.space.decode(index)], "validation")[0].loss

    return _known(name, components, evaluate)


def _known(
    name: str, components: StudyComponents, evaluate: Callable[[Integers], float]
) -> Objective:
    known = load_arrays(DATA / name / _PROXY)
    return Objective(
        name=name,
        space=components.space,
        scores=weighted_scores(components.space, known["quantization_error"], known["sensitivity"]),
        correlation=error_correlation(components.quantizer),
        examples=int(known["examples"]),
        warm_start=known["warm_start"],
        evaluate=evaluate,
    )


def known_objective(name: str) -> Objective:
    """Return an objective without its model: for what was recorded."""

    def refuse(index: Integers) -> float:
        raise LookupError("this objective was made for recorded losses alone")

    return _known(name, assembled(name), refuse)
