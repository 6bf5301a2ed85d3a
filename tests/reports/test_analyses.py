"""Our cards next to Ax's: of a study that was run, of a client of one's own, of bad states."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ax.analysis.analysis import Analysis
from ax.analysis.plotly.plotly_analysis import PlotlyAnalysisCard
from ax.analysis.summary import Summary
from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.core.analysis_card import AnalysisCard, ErrorAnalysisCard, NotApplicableStateAnalysisCard
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.storage.sqa_store.db import init_engine_and_session_factory
from ax.storage.sqa_store.load import load_analysis_cards_by_experiment_name
from ax.storage.sqa_store.save import save_analysis_card
from ax.utils.common.logger import set_ax_logger_levels
from qsearch_analyses import (
    QsearchFront,
    QsearchMarginals,
    client_analyses,
    experiment_record,
    study_analyses,
)
from qsearch_reports.frames import front_frame

from qsearch.experiment.node import QsearchNode, registry_bundle
from qsearch.experiment.parameters import AVERAGE_BITS, LOSS, ax_parameters, to_parameters
from qsearch.space.sampling import sample_configurations
from qsearch.storage.study_record import StudyRecord, read_study, write_study
from tests.engine.fake_study import INTEGER, make_space, uniform
from tests.reports.realistic_studies import make_record, objective_results, only_failures

HOWTO = Path(__file__).parents[2].joinpath("docs", "howto-ax.md").read_text(encoding="utf-8")
SPACE = make_space(1, INTEGER)
BITS = (2.5, 6.0)


@pytest.fixture(autouse=True)
def quiet_ax() -> None:
    set_ax_logger_levels(logging.CRITICAL)


@pytest.fixture
def directory(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def client(directory: Path) -> Client:
    """The study's own client, loaded from its database."""
    url = f"sqlite:///{directory / 'study.db'}"
    init_engine_and_session_factory(url=url, force_init=True)
    storage = StorageConfig(url=url, registry_bundle=registry_bundle())
    return Client.load_from_database("fake", storage_config=storage)


def own_client(losses: list[float], name: str = "own") -> Client:
    """A client of one's own: attached configurations with these losses, no study."""
    client = Client()
    client.configure_experiment(name=name, parameters=ax_parameters(SPACE))
    client.configure_optimization(objective=f"-{LOSS}, -{AVERAGE_BITS}")
    node = QsearchNode(SPACE, BITS, segments=8)
    client.set_generation_strategy(GenerationStrategy(name="qsearch", nodes=[node]))
    drawn = sample_configurations(SPACE, max(len(losses), 1), BITS, np.random.default_rng(0))
    for index, loss in zip(drawn, losses, strict=False):
        trial = client.attach_trial(to_parameters(SPACE, index))
        bits = float(SPACE.average_bits(index))
        client.complete_trial(trial, raw_data={LOSS: (loss, 0.01), AVERAGE_BITS: (bits, 0.0)})
    return client


def cards_of(client: Client, analyses: list[Analysis]) -> list[AnalysisCard]:
    return [c for g in client.compute_analyses(analyses, display=False) for c in g.flatten()]


def test_axs_cards_and_ours_come_together(client: Client, directory: Path) -> None:
    cards = cards_of(client, [Summary(), *study_analyses(directory)])
    assert cards[0].title == "Summary for fake"
    ours = cards[1:]
    assert len({card.title for card in ours}) == len(ours) == 10
    for card in ours:
        assert isinstance(card, PlotlyAnalysisCard)
        assert not card.df.empty
        assert card.get_figure().data
        assert card.title.startswith("qsearch: ")
        assert len(card.subtitle) > 60
        assert "<script" in card._repr_html_()


def test_cards_are_stored_and_loaded_as_axs_are(client: Client, directory: Path) -> None:
    cards = cards_of(client, study_analyses(directory))
    for card in cards:
        save_analysis_card(card, client._experiment, registry_bundle().sqa_config)
    loaded = load_analysis_cards_by_experiment_name("fake", registry_bundle().sqa_config)
    found = {card.name: card for group in loaded for card in group.flatten()}
    assert found.keys() == {card.name for card in cards}
    for card in cards:
        assert isinstance(found[card.name], PlotlyAnalysisCard)
        assert found[card.name].blob == card.blob
        assert len(found[card.name].df) == len(card.df)


def test_a_study_is_read_again_once_it_has_written(client: Client, directory: Path) -> None:
    front = QsearchFront(directory)
    (before,) = cards_of(client, [front])
    record = read_study(directory)
    kept = record.trials[record.trials["trial"] != int(before.df["trial"].iloc[0])]
    (directory / "trials.parquet").unlink()
    write_study(directory, StudyRecord(**{**vars(record), "trials": kept}))
    (after,) = cards_of(client, [front])
    assert len(after.df) == len(before.df) - 1


# From the experiment alone


def test_the_experiment_alone_gives_what_the_study_recorded(
    client: Client, directory: Path
) -> None:
    record = experiment_record(client._experiment, client._generation_strategy)
    study = read_study(directory)
    assert record.layers == study.layers
    assert record.choices == study.choices
    assert record.segment_edges == pytest.approx(study.segment_edges)
    shared = [
        *("trial", "round", "average_bits", "loss", "standard_error", "configuration", "segment")
    ]
    ours, theirs = (
        one.trials[one.trials["status"] == "completed"].sort_values(["round", "trial"])
        for one in (record, study)
    )
    pd.testing.assert_frame_equal(
        *(one[shared].reset_index(drop=True) for one in (ours, theirs)), check_dtype=False
    )
    assert record.metric is not None
    assert study.metric is not None
    assert record.metric.name == study.metric.name
    assert record.reference_point == pytest.approx(study.reference_point)
    assert [entry.hypervolume for entry in record.rounds] == pytest.approx(
        [entry.hypervolume for entry in study.rounds], abs=1e-6
    )


def test_a_client_of_ones_own_has_cards_without_a_study() -> None:
    client = own_client([0.5, 0.4, 0.3, 0.25])
    cards = cards_of(client, [Summary(), *client_analyses(bits=5.0)])
    assert {type(card) for card in cards[1:]} == {PlotlyAnalysisCard}
    front, parallel, marginals, heatmap, hypervolume = cards[1:]
    assert front.df["loss"].tolist() == [0.5, 0.4, 0.3, 0.25]
    assert not {"seen", "unseen"} & {trace["name"] for trace in json.loads(front.blob)["data"]}
    assert {"mean bits", "mean group_size"} <= set(parallel.df)
    assert "metric" not in {
        axis
        for trace in json.loads(parallel.blob)["data"]
        for axis in trace.get("name", "").split()
    }
    on_front = front_frame(front.df, "selection_loss")
    assert set(marginals.df["trial"]) == set(on_front["trial"])
    assert "5 average bits" in heatmap.title
    assert hypervolume.df["hypervolume"].is_monotonic_increasing


# What is missing is said, not raised


def told(client: Client, analyses: list[Analysis]) -> dict[str, str]:
    cards = cards_of(client, analyses)
    assert {type(card) for card in cards} == {NotApplicableStateAnalysisCard}
    return {card.name: card.blob for card in cards}


def test_without_a_completed_trial_each_card_says_so() -> None:
    reasons = told(own_client([]), client_analyses())
    assert reasons["QsearchFront"] == "No evaluation has completed yet."
    assert reasons["QsearchHeatmap"].endswith("has no completed trials yet; run it first")
    assert len(reasons) == 5


def test_a_client_without_our_node_is_told_what_is_needed() -> None:
    client = Client()
    client.configure_experiment(name="other", parameters=ax_parameters(SPACE))
    client.configure_optimization(objective=f"-{LOSS}")
    client.configure_generation_strategy()
    assert "has no QsearchNode" in told(client, [QsearchFront()])["QsearchFront"]


def test_failed_trials_alone_are_no_front() -> None:
    client = own_client([0.3])
    client.mark_trial_failed(client.attach_trial(to_parameters(SPACE, uniform(SPACE, BITS[0]))))
    record = experiment_record(client._experiment, client._generation_strategy)
    assert sorted(record.trials["status"]) == ["completed", "failed"]
    assert record.trials.set_index("status")["reason"]["failed"]


@pytest.mark.parametrize("name", ["<img src=x>", "none"])
def test_a_directory_without_a_study_is_named_as_text(name: str, tmp_path: Path) -> None:
    for analysis in study_analyses(tmp_path / name):
        reason = analysis.validate_applicable_state()
        assert reason is not None
        assert "there is no such directory" in reason
        assert "<" not in reason


def test_an_unknown_knob_is_refused_and_the_knobs_named(directory: Path) -> None:
    reason = QsearchMarginals(directory, "bitz").validate_applicable_state()
    known = "['bits', 'group_size', 'scheme']"
    assert unescape(reason or "") == f"there is no knob 'bitz'; there are: {known}"


@pytest.mark.parametrize("case", ["failed", "one"])
def test_a_study_with_little_to_show_makes_no_error_card(
    case: str, study: Callable[..., Path]
) -> None:
    one = make_record(rounds=1, trials_per_round=1, failed=0)
    directory = study(one if case == "one" else only_failures(one))
    cards = cards_of(own_client([0.3]), study_analyses(directory))
    kinds = {card.name: type(card) for card in cards}
    assert ErrorAnalysisCard not in kinds.values()
    expected = PlotlyAnalysisCard if case == "one" else NotApplicableStateAnalysisCard
    assert kinds["QsearchFront"] is expected


def test_cards_of_an_objective_show_no_training(study: Callable[..., Path]) -> None:
    record = objective_results().record
    cards = {card.name: card for card in cards_of(own_client([0.3]), study_analyses(study(record)))}
    kinds = {name: type(card) for name, card in cards.items()}
    assert ErrorAnalysisCard not in kinds.values()
    assert kinds["QsearchTraining"] is NotApplicableStateAnalysisCard
    front = cards["QsearchFront"]
    assert "adapter" not in front.subtitle
    layout = json.loads(front.blob)["layout"]
    assert layout["yaxis"]["title"]["text"] == "loss"


def test_an_analysis_that_fails_leaves_the_others_their_cards(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: QsearchFront, results: object) -> pd.DataFrame:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(QsearchFront, "frame", fail)
    front, marginals = cards_of(client, [QsearchFront(directory), QsearchMarginals(directory)])
    assert isinstance(front, ErrorAnalysisCard)
    assert "a fault of ours" in front.subtitle
    assert isinstance(marginals, PlotlyAnalysisCard)


# The how-to


def test_the_how_to_names_every_analysis_and_which_need_a_study(directory: Path) -> None:
    rows = re.findall(r"^\| `(Qsearch\w+)` \|.*\| (yes|no) \|$", HOWTO, re.MULTILINE)
    assert {name for name, _ in rows} == {type(one).__name__ for one in study_analyses(directory)}
    alone = {type(one).__name__ for one in client_analyses()}
    assert {name for name, answer in rows if answer == "yes"} == alone


def test_the_examples_of_the_how_to_run(directory: Path) -> None:
    section = HOWTO.split("### Our cards next to Ax's")[1].split("\n## ")[0]
    source = "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    source = source.replace("runs/quickstart", str(directory)).replace("quickstart", "fake")
    found: dict[str, object] = {}
    exec(compile(source, "howto-ax.md", "exec"), found)
    cards = found["cards"]
    assert isinstance(cards, list)
    assert [type(card) for card in cards] == [PlotlyAnalysisCard] * len(client_analyses())
