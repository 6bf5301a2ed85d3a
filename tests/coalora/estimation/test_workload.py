from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import transformers
from qsearch_coalora.estimation.requirements import estimate_requirements
from qsearch_coalora.methods.coa_lora import CoALoRAOptions
from qsearch_coalora.models.architectures import ModelShape
from qsearch_coalora.models.model_shape import position_limit
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.classification import Classification
from qsearch_coalora.tasks.workload import Workload, require_positions, task_workload

from qsearch.errors import InputError
from qsearch.plugins.registry import load_plugin
from qsearch.space.layers import LayerSpec
from tests.coalora.conftest import classification, small_config


def test_operations_are_two_per_parameter_and_token_and_three_passes_a_step(quantizer) -> None:
    options = CoALoRAOptions(batch_size=4, first_steps=10, steps=5)
    layers = (LayerSpec("1", "query", 0, (4, 8)),)  # Embeddings do no work.
    shape = ModelShape(layers, parameters=1000 * 8 + 32, embedded=1000 * 8, positions=None)
    needs = estimate_requirements(shape, layers, quantizer, options, Workload(16, 7), ())
    assert needs.evaluation_flops == 2 * 32 * 16 * 7
    assert needs.training_flops == (3 * 2 * 32 * 16 * 4 * 10, 3 * 2 * 32 * 16 * 4 * 5)


DOCSTRINGS = {"docstrings": {"packages": ["a", "b"], "validation_texts": 5}}
FILES = {"train": "a.txt", "validation": "b.txt"}
HUB = {"dataset": {"name": "owner/set"}}


@pytest.mark.parametrize(
    ("task", "options", "tokens", "examples"),
    [
        (Classification, DOCSTRINGS | {"max_length": 12, "validation_examples": 8}, 12, 8),
        (Classification, DOCSTRINGS, 128, 10),
        (CausalLanguageModelling, FILES | {"length": 10, "validation_tokens": 105}, 10, 10),
        (CausalLanguageModelling, HUB | {"length": 10}, 10, None),
    ],
)
def test_tasks_tell_their_workload_from_options_alone(task, options, tokens, examples) -> None:
    workload = task_workload(task(task.Options(**options)))
    assert (workload.example_tokens, workload.evaluated_examples) == (tokens, examples)
    length = "max_length" if task is Classification else "length"
    assert workload.tokens_option == f"task.{length}"
    downloaded = "data set owner/set is downloaded from the hub on first use"
    assert workload.notes == ((downloaded,) if "dataset" in options else ())


def test_task_that_tells_no_workload_has_none() -> None:
    assert task_workload(object()) is None  # type: ignore[arg-type]


def test_requirements_say_when_the_data_must_tell_the_time(make_trainer) -> None:
    needs = make_trainer().requirements()  # files without a bound on their examples
    assert needs.evaluation_flops == 0
    assert "no time estimate" in needs.notes[0]


@pytest.mark.parametrize(("device", "warned"), [("hpu", True), ("cpu", False)])
def test_requirements_warn_of_a_device_that_this_machine_lacks(
    make_trainer, device: str, warned: bool
) -> None:
    notes = make_trainer(device=device).requirements().notes
    said = f"trainer.device {device!r} cannot be used on this machine; available: cpu"
    assert any(note.startswith(said) for note in notes) == warned


@pytest.mark.parametrize(
    ("method", "rounds", "for_each_configuration"),
    [
        ("coa-lora", (1, 1), 0),
        ("ptq", (1, 0), 0),
        ("qlora", (0, 0), 1),
        ("lq-lora", (0, 0), 1),
    ],
)
def test_requirements_count_the_trainings_of_a_method(
    make_trainer, table_files, method: str, rounds, for_each_configuration: int
) -> None:
    task = classification(table_files, validation_examples=8)
    plain, needs = (
        make_trainer(method=load_plugin("trainers", name), task=task).requirements()
        for name in ("shared-lora", method)
    )
    training, evaluation = plain.training_flops[0], plain.evaluation_flops
    assert training > 0
    assert needs.training_flops == (rounds[0] * training, rounds[1] * training)
    assert needs.evaluation_flops == evaluation
    assert needs.first_evaluation_flops == for_each_configuration * training
    # Rank 4, and in each of two blocks four matrices of 32 x 32 and two of 32 x 64.
    adapter = 4 * 2 * (4 * 64 + 2 * 96) * 4
    assert needs.configuration_bytes == for_each_configuration * adapter


@pytest.mark.parametrize(("kind", "limit"), [("Bert", 40), ("Roberta", 38), ("Llama", 40)])
def test_positions_before_the_first_token_are_no_room_for_text(kind: str, limit: int) -> None:
    """RoBERTa numbers positions from after its padding's, 1."""
    config = small_config(kind, max_position_embeddings=40)
    model = getattr(transformers, f"{kind}Model")(config)
    assert position_limit(model) == limit
    for tokens in (limit, limit + 1):
        if tokens > limit and kind == "Llama":
            break  # Its positions are rotations, which go on.
        inputs = {"input_ids": torch.full((1, tokens), 5)}
        with nullcontext() if tokens <= limit else pytest.raises((IndexError, RuntimeError)):
            model(**inputs)
    with pytest.raises(InputError, match=f"above the {limit} tokens"):
        require_positions(limit, Workload(limit + 1, None))
