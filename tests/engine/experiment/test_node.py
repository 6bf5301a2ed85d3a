"""The Ax generation node, in a user's own Ax client."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.storage.sqa_store.db import (
    create_all_tables,
    get_engine,
    init_engine_and_session_factory,
)
from ax.utils.common.logger import set_ax_logger_levels

from qsearch._arrays import Integers
from qsearch.errors import InputError
from qsearch.experiment.node import QsearchNode, registry_bundle
from qsearch.experiment.parameters import (
    AVERAGE_BITS,
    LOSS,
    ax_parameters,
    from_parameters,
    to_parameters,
)
from qsearch.search import searcher
from qsearch.search.candidate_pool import SearchSettings
from qsearch.search.layer_scores import error_scores
from qsearch.space.sampling import sample_configurations
from tests.engine.fake_study import INTEGER, errors_of, make_space

SPACE = make_space(1, INTEGER, fused=True)
BITS = (2.5, 6.0)
SCORES = error_scores(SPACE, errors_of(SPACE))
CORRELATION = np.corrcoef(np.random.default_rng(0).standard_normal((SPACE.choices.size, 5)))
EXAMPLES = 100
SETTINGS = SearchSettings(starts=4, steps=3)
NEW = sample_configurations(SPACE, 1, BITS, np.random.default_rng(9))[0]


@pytest.fixture(autouse=True)
def quiet_ax() -> None:
    set_ax_logger_levels(logging.ERROR)


def make_node(seed: int = 0) -> QsearchNode:
    return QsearchNode(SPACE, BITS, seed, 8, SETTINGS, SCORES, CORRELATION, EXAMPLES)


def attach(client: Client, index: Integers, loss: float, round: int | None = None) -> int:
    number = client.attach_trial(to_parameters(SPACE, index))
    data = {LOSS: (loss, 0.0), AVERAGE_BITS: (float(SPACE.average_bits(index)), 0.0)}
    client.attach_data(number, raw_data=data, progression=round)
    client.complete_trial(number)
    return int(number)


def make_client(
    storage: StorageConfig | None = None, node: QsearchNode | None = None, round: int | None = None
) -> Client:
    client = Client(storage_config=storage)
    client.configure_experiment(name="mine", parameters=ax_parameters(SPACE))
    client.configure_optimization(objective=f"-{LOSS}, -{AVERAGE_BITS}")
    client.set_generation_strategy(GenerationStrategy(name="mine", nodes=[node or make_node()]))
    for index in sample_configurations(SPACE, 6, BITS, np.random.default_rng(0)):
        attach(client, index, float(1 / SPACE.average_bits(index)), round)
    return client


def node_of(client: Client) -> QsearchNode:
    (node,) = client._maybe_generation_strategy._nodes
    assert isinstance(node, QsearchNode)
    return node


def updated(client: Client) -> QsearchNode:
    """The node that the client generates with, fitted to the client's data."""
    node = node_of(client)
    node.update_generator_state(client._experiment, client._experiment.lookup_data())
    return node


def next_parameters(client: Client) -> dict[str, Any]:
    ((_, parameters),) = client.get_next_trials(max_trials=1).items()
    return dict(parameters)


def keys(client: Client) -> list[bytes]:
    trials = client._experiment.trials
    return [from_parameters(SPACE, trials[n].arm.parameters).tobytes() for n in sorted(trials)]


@pytest.mark.parametrize("round", [None, 0])
def test_proposes_new_trials_with_and_without_rounds(round: int | None) -> None:
    client = make_client(round=round)
    client.get_next_trials(max_trials=3)
    assert len(set(keys(client))) == 9
    for number in (6, 7, 8):
        index = from_parameters(SPACE, client._experiment.trials[number].arm.parameters)
        assert BITS[0] <= float(SPACE.average_bits(index)) <= BITS[1]


def test_failed_and_abandoned_configurations_are_never_proposed_again() -> None:
    client = make_client()
    for position in range(4):
        ((number, _),) = client.get_next_trials(max_trials=1).items()
        if position % 2:
            client.mark_trial_failed(number)
        else:
            client.mark_trial_abandoned(number)
    assert len(set(keys(client))) == 6 + 4


def test_uses_the_latest_round_alone() -> None:
    client = make_client(round=0)
    for number in (0, 2, 3, 5):
        client.attach_data(number, raw_data={LOSS: (0.1 * number + 1, 0.0)}, progression=1)
    node = updated(client)
    assert node.searcher._loss.tolist() == [1.0, 1.2, 1.3, 1.5]
    used = [row.tobytes() for row in node.searcher._index]
    assert used == [keys(client)[n] for n in (0, 2, 3, 5)]


def test_new_losses_and_new_scores_refit_the_surrogate_and_old_ones_do_not() -> None:
    client = make_client(round=0)
    first = updated(client).searcher._surrogate
    assert updated(client).searcher._surrogate is first
    attach(client, NEW, 0.2, 0)
    second = updated(client).searcher._surrogate
    assert second is not first
    node_of(client).use_scores(2 * SCORES[:, ::-1])
    third = updated(client).searcher._surrogate
    assert third is not None
    assert third is not second
    assert third.features is not second.features


def test_a_batch_shares_one_pool_until_there_is_new_data(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = searcher.candidate_pool
    monkeypatch.setattr(
        searcher, "candidate_pool", lambda *given: (made.append(1), make(*given))[1]
    )
    client = make_client()
    for _ in range(3):
        client.get_next_trials(max_trials=1)
    assert len(made) == 1
    attach(client, NEW, 0.2)
    client.get_next_trials(max_trials=1)
    assert len(made) == 2


def test_completed_and_abandoned_trials_are_not_waited_for() -> None:
    """Ax counts some of the former as pending, and the latter for ever."""
    client = make_client(node=make_node(seed=3))
    for index in sample_configurations(SPACE, 3, BITS, np.random.default_rng(9)):
        client.mark_trial_abandoned(client.attach_trial(to_parameters(SPACE, index)))
    node, trials = updated(client), client._experiment.trials.values()
    candidate = node.get_next_candidate([dict(trial.arm.parameters) for trial in trials])
    assert candidate == node.get_next_candidate([])
    assert candidate not in [trial.arm.parameters for trial in trials]


def storage_in(folder: Path) -> StorageConfig:
    url = f"sqlite:///{folder / 'mine.db'}"
    init_engine_and_session_factory(url=url, force_init=True)
    create_all_tables(get_engine())
    return StorageConfig(url=url, registry_bundle=registry_bundle())


def loaded_from_sqlite(client: Client, folder: Path) -> Client:
    return Client.load_from_database("mine", storage_config=storage_in(folder))


def loaded_from_json(client: Client, folder: Path) -> Client:
    client.save_to_json_file(str(folder / "mine.json"))
    (folder / "mine.db").unlink()
    storage = storage_in(folder)
    return Client.load_from_json_file(str(folder / "mine.json"), storage_config=storage)


@cache
def unsaved_proposals() -> list[dict[str, Any]]:
    """What a node proposes that is never saved."""
    client = make_client(node=make_node(seed=7))
    return [next_parameters(client) for _ in range(3)]


@pytest.mark.parametrize("load", [loaded_from_sqlite, loaded_from_json])
def test_a_saved_node_continues_its_batch_as_it_would_have(load: Any, tmp_path: Path) -> None:
    begun = make_client(storage_in(tmp_path), make_node(seed=7))
    proposed = [next_parameters(begun)]
    loaded = load(begun, tmp_path)
    proposed += [next_parameters(loaded) for _ in range(2)]
    assert proposed == unsaved_proposals()
    node = node_of(loaded)
    assert node.searcher.settings == SETTINGS
    assert np.array_equal(node.scores, SCORES)  # type: ignore[arg-type]
    assert node.correlation == pytest.approx(CORRELATION, abs=1e-7)
    assert node.examples == EXAMPLES


def test_scores_given_later_are_not_stored_and_are_given_again(tmp_path: Path) -> None:
    later = SCORES, CORRELATION.astype(np.float32).astype(np.float64), EXAMPLES
    node = QsearchNode(SPACE, BITS, 7, 8, SETTINGS)
    node.use_scores(*later)
    make_client(storage_in(tmp_path), node)
    loaded = Client.load_from_database("mine", storage_config=storage_in(tmp_path))
    assert node_of(loaded).scores is None
    assert node_of(loaded).examples is None
    with pytest.raises(InputError, match="use_scores"):
        loaded.get_next_trials(max_trials=1)
    node_of(loaded).use_scores(*later)
    assert next_parameters(loaded) == unsaved_proposals()[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scores": SCORES[:1]}, r"scores have shape \(1, 8\), expected \(4, 8\)"),
        ({"scores": SCORES, "examples": 0}, "1 or more examples, not 0"),
        ({"correlation": CORRELATION}, "of no use without scores"),
        ({"examples": EXAMPLES}, "of no use without scores"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        QsearchNode(SPACE, BITS, **options)


def test_a_node_without_scores_or_data_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="use_scores"):
        make_client(node=QsearchNode(SPACE, BITS)).get_next_trials(max_trials=1)
    with pytest.raises(InputError, match="no data yet"):
        make_node().get_next_candidate([])


@pytest.mark.parametrize("with_scores", [True, False])
def test_space_of_any_knobs_is_saved(with_scores: bool) -> None:
    """Storage keeps shapes, ties, text values and scores as they were."""
    space = make_space(1, fused=True, shaped=True)
    space = replace(space, shape_choices={(384, 1536): (0, 2)})
    scores = error_scores(space, errors_of(space)) if with_scores else None
    bundle = registry_bundle()
    node = QsearchNode(space, (2, 7), 3, 12, scores=scores)
    values = bundle.encoder_registry[QsearchNode](node)
    assert values.pop("__type") == "QsearchNode"
    loaded = bundle.decoder_registry["QsearchNode"](**json.loads(json.dumps(values)))
    assert loaded.space == space
    assert (loaded.bits, loaded.searcher.seed, loaded.segments) == ((2.0, 7.0), 3, 12)
    assert np.array_equal(loaded.scores, scores) if with_scores else loaded.scores is None
