"""What the last finished round supports, from losses of the same examples."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qsearch.claims.claims import no_measurable_loss, uniform_claims
from qsearch.claims.comparison import Comparison
from qsearch.claims.sentences import claim_sentence, uniform_sentence
from qsearch.claims.study_claims import study_claims
from qsearch.plugins.evaluation import ExampleScores
from qsearch.plugins.footprint import Footprint
from qsearch.storage.example_scores import FULL_PRECISION, trial_name, write_example_scores
from qsearch.storage.paths import examples_path
from qsearch.storage.study_record import StudyRecord, read_study, write_study
from tests.engine.fake_study import command_here

EXAMPLES = 400
NOISE = 0.02
"""Of each example's difference; that of a mean of 400 is 0.001."""

COMMON = np.random.default_rng(0).normal(1.0, 0.5, EXAMPLES)
"""What all models lose on an example, whose spread is many times that of differences."""


def scores(loss: float, seed: int) -> ExampleScores:
    """Return examples' losses whose mean is a loss, nearly."""
    own = np.random.default_rng(seed).normal(0, NOISE, EXAMPLES)
    losses = COMMON - COMMON.mean() + loss + own - own.mean()
    return ExampleScores(tuple(losses.tolist()), (1.0,) * EXAMPLES)


@pytest.fixture
def directory(finished: Path, tmp_path: Path) -> Path:
    """A study whose front loses 0.0001 more at each smaller size, but its smallest 0.1."""
    copy = shutil.copytree(finished, tmp_path / "run")
    record = read_study(copy)
    round = record.rounds[-1].round
    latest = record.latest.sort_values("average_bits", ascending=False)
    full = record.rounds[-1].full_precision
    assert full is not None
    for place, (_, row) in enumerate(latest.iterrows(), start=1):
        loss = full.loss + (0.1 if place == len(latest) else 0.0001 * place)
        name = trial_name(int(row["trial"]))
        write_example_scores(examples_path(copy, round, name), scores(loss, place))
    write_example_scores(examples_path(copy, round, FULL_PRECISION), scores(full.loss, 0))
    return copy


@pytest.fixture
def record(directory: Path) -> StudyRecord:
    """Its results, in which each smaller configuration has a greater loss."""
    found = read_study(directory)
    trials = found.trials.assign(loss=10 - found.trials["average_bits"])
    return replace(found, trials=trials)


def test_a_paired_difference_is_far_surer_than_either_loss(
    directory: Path, record: StudyRecord
) -> None:
    largest = record.latest.sort_values("average_bits").iloc[-1]
    difference = Comparison(directory, record).with_full_precision(int(largest["trial"]))
    assert difference is not None
    assert difference.difference == pytest.approx(0.0001, abs=1e-6)
    assert difference.standard_error == pytest.approx(NOISE * (2 / EXAMPLES) ** 0.5, rel=0.1)
    assert COMMON.std() / EXAMPLES**0.5 > 10 * difference.standard_error


def test_no_measurable_loss_is_the_smallest_that_is_not_measurably_worse(
    directory: Path, record: StudyRecord
) -> None:
    claim = no_measurable_loss(record, Comparison(directory, record))
    assert claim is not None
    ordered = record.latest.sort_values("average_bits")
    assert claim.row["trial"] == ordered["trial"].iloc[1]  # The smallest loses 0.1.
    assert claim.at_most == pytest.approx(claim.difference.high / claim.reference_loss)
    sentence = claim_sentence(claim, Footprint(8_000_000, 40_000_000, 1_000_000))
    assert f"over the same {EXAMPLES} examples" in sentence
    assert claim.compared == len(ordered)
    assert f"(95 % interval for all {len(ordered)} configurations at once)" in sentence
    assert sentence.endswith("In 16 bits the model takes 56.0 MB.")


def test_a_configuration_off_the_front_may_be_the_smallest(
    directory: Path, record: StudyRecord
) -> None:
    second = record.latest.sort_values("average_bits")["trial"].iloc[1]
    # By its selection loss the smallest dominates it; over the same examples it is as good.
    loss = record.trials["loss"].mask(record.trials["trial"] == second, 99.0)
    dominated = replace(record, trials=record.trials.assign(loss=loss))
    comparison = Comparison(directory, dominated)
    for tolerance in (None, 0.05):
        claim = no_measurable_loss(dominated, comparison, tolerance)
        assert claim is not None
        assert claim.row["trial"] == second


def test_a_tolerance_holds_the_whole_interval(directory: Path, record: StudyRecord) -> None:
    comparison = Comparison(directory, record)
    loss = record.rounds[-1].full_precision.loss  # type: ignore[union-attr]
    assert no_measurable_loss(record, comparison, 0.0001 / loss) is None
    claim = no_measurable_loss(record, comparison, 0.02 / loss)
    assert claim is not None
    assert claim.difference.high <= 0.02
    # The interval is wider than that of the same configuration alone, which is not enough.
    alone = comparison.with_full_precision(int(claim.row["trial"]))
    assert alone is not None
    assert alone.high < claim.difference.high
    closer = no_measurable_loss(record, comparison, (alone.high + 1e-6) / loss)
    assert closer is None or closer.row["trial"] != claim.row["trial"]


def test_a_baseline_has_what_is_as_good_in_fewer_bytes(
    directory: Path, record: StudyRecord
) -> None:
    bits = record.trials["average_bits"]
    # The search found the same loss in fewer bits, but for the smallest, which loses 0.1.
    trials = record.trials.assign(loss=np.where(bits == bits.min(), 99.0, bits))
    gained = replace(record, trials=trials)
    claims = uniform_claims(gained, Comparison(directory, gained))
    smaller = [claim for claim in claims if claim.row is not None]
    assert smaller
    for claim in smaller:
        assert claim.row is not None
        assert claim.row["bytes"] < claim.baseline["bytes"]
        assert claim.difference is not None
        assert claim.difference.low <= 0
        assert f"{100 * claim.saved:.0f} % fewer bytes" in uniform_sentence(claim)
    own = json.loads(claims[0].baseline["configuration"])["block.0.query"]["bits"]
    assert claims[0].name == f"uniform {own} bits"


def test_a_baseline_that_nothing_smaller_matches_is_said_to_be_so(
    directory: Path, record: StudyRecord
) -> None:
    smallest, *others = uniform_claims(record, Comparison(directory, record))
    bits = record.latest["average_bits"]
    assert smallest.baseline["average_bits"] == bits.min()
    assert re.fullmatch(
        r"The last finished round has nothing smaller than uniform \d bits, [\d.]+ kB"
        r" \([\d.]+ average bits\)\.",
        uniform_sentence(smallest),
    )
    assert others
    for claim in others:
        assert claim.row is None
        assert claim.smaller == (bits < claim.baseline["average_bits"]).sum()
        assert uniform_sentence(claim).startswith("No smaller configuration is as good as uniform ")


def test_without_scores_of_examples_nothing_is_claimed(finished: Path, tmp_path: Path) -> None:
    claims = study_claims(tmp_path, read_study(finished))
    assert claims.no_loss is None
    assert claims.uniform == ()


def test_pick_within_a_share_is_the_claim(directory: Path, record: StudyRecord) -> None:
    own = read_study(directory)
    claim = no_measurable_loss(own, Comparison(directory, own), 0.1)
    assert claim is not None
    values = json.loads(command_here("pick", directory, "--within", "10%", "--json").output)
    assert values["trial"] == claim.row["trial"]
    assert values["difference"]["high"] == claim.difference.high
    lines = command_here("pick", directory, "--within", "0.1").output
    at_once = f"(95 % interval for all {len(own.latest)} configurations at once)"
    assert f"nats from full precision {at_once}" in lines
    trial = command_here("pick", directory, "--trial", str(claim.row["trial"])).output
    assert "nats from full precision (95 % interval)" in trial


def test_nothing_beyond_the_share_may_be_as_good(directory: Path) -> None:
    own = read_study(directory)
    trials = own.trials.assign(estimated_loss=own.trials["loss"], estimated_loss_std=9.0)
    write_study(directory, replace(own, trials=trials))
    values = json.loads(command_here("pick", directory, "--within", "10%", "--json").output)
    assert values["average_bits"] > own.latest["average_bits"].min()
    assert values["smallest_alike"]["trial"] == values["trial"]
    # By the uncertainty alone, the smallest of all may be as good.
    trial = ["--trial", str(values["trial"])]
    unlimited = json.loads(command_here("pick", directory, *trial, "--json").output)
    assert unlimited["smallest_alike"]["average_bits"] == own.latest["average_bits"].min()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--within", "0.001%"], "configurations at once is within 0.0000 nats of full precision"),
        (["--within", "200%"], "give a share of the loss, such as 1% or 0.01"),
        (["--within", "few"], "give a share of the loss, such as 1% or 0.01"),
        (["--within", "1%", "--bits", "3"], "--within picks by the loss; leave budgets"),
    ],
)
def test_a_share_that_cannot_be_picked_by_is_refused(
    directory: Path, arguments: list[str], message: str
) -> None:
    assert message in command_here("pick", directory, *arguments).refused()


def test_export_and_evaluate_take_the_pick_within_a_share(directory: Path, tmp_path: Path) -> None:
    share = [directory, "--within", "10%"]
    trial = json.loads(command_here("pick", *share, "--json").output)["trial"]
    assert command_here("export", *share, "--to", tmp_path / "out", "--format", "json").code == 0
    facts = json.loads((tmp_path / "out" / "qsearch.json").read_text())
    assert (facts["trial"], facts["budget"], facts["within"]) == (trial, None, 0.1)
    models = json.loads(command_here("evaluate", *share, "--json").output)["models"]
    assert models[0]["name"] == f"trial {trial}"


def test_pick_within_needs_scores_of_examples(finished: Path) -> None:
    errors = command_here("pick", finished, "--within", "1%").refused()
    assert "does not say what each example lost" in errors


def test_a_study_without_a_result_is_said_to_have_none(finished: Path, tmp_path: Path) -> None:
    record = read_study(finished)
    write_study(tmp_path, replace(record, rounds=(), trials=record.trials.iloc[:0]))
    for option in (["--within", "1%"], ["--bytes", "20kB"], ["--memory", "1MB"]):
        errors = command_here("pick", tmp_path, *option).refused()
        assert "has no completed trials yet; run it first" in errors
