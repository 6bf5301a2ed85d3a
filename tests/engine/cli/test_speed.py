"""Configurations picked by the tokens that they are predicted to generate a second."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from qsearch.deployment.predicted_speed import generation_speeds
from qsearch.errors import DamagedFileError
from qsearch.plugins.speed import ProductSpeed, SpeedCheck, SpeedConditions, SpeedTable
from qsearch.space.configuration import Configuration
from qsearch.storage.measurements import read_speed, write_speed
from qsearch.storage.paths import SPEED_FILE
from qsearch.storage.study_record import StudyRecord, read_study, row_configuration

CONDITIONS = SpeedConditions("made", "1", "a machine", 1, 100)


@pytest.fixture(scope="module")
def fast(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a study whose products take as many nanoseconds a weight as they have bits."""
    directory = tmp_path_factory.mktemp("fast") / "study"
    shutil.copytree(finished, directory)
    write_speed(directory, table_of(read_study(directory)))
    return directory


def table_of(record: StudyRecord, **changes: object) -> SpeedTable:
    products = tuple(
        ProductSpeed(shape, dict(one), "type", one.integer("bits"), one.integer("bits") / 10)
        for shape in dict.fromkeys(layer.shape for layer in record.layers)
        for one in record.choices.layer_configurations
    )
    values = {"other_generation": 1e-6, "other_prompt": 1e-7} | changes
    return SpeedTable(CONDITIONS, products, **values)  # type: ignore[arg-type]


def nanoseconds(record: StudyRecord, configuration: Configuration) -> float:
    return sum(
        layer.parameters * configuration[layer.name].integer("bits") for layer in record.layers
    )


def test_seconds_are_a_sum_over_layers(fast: Path) -> None:
    record = read_study(fast)
    row = record.latest.iloc[0]
    chosen = row_configuration(row)
    total = nanoseconds(record, chosen)
    table = read_speed(fast)
    assert table is not None
    assert table.generation(record.layers, chosen) == pytest.approx(1e9 / (total + 1000))
    assert table.prompt(record.layers, chosen) == pytest.approx(1e9 / (total / 10 + 100))

    first = record.layers[0]
    own = first.parameters * chosen[first.name].integer("bits")
    looked_up = table_of(record, looked_up=(first.name,))
    assert looked_up.generation(record.layers, chosen) == pytest.approx(1e9 / (total - own + 1000))
    # With the last of 100 tokens alone, it takes a hundredth of a token's product.
    head = table_of(record, of_last=(first.name,))
    seconds = (total - own) / 10 + own / 100 + 100
    assert head.prompt(record.layers, chosen) == pytest.approx(1e9 / seconds)
    assert head.generation(record.layers, chosen) == table.generation(record.layers, chosen)

    unknown = SpeedTable(CONDITIONS, table.products[:1], 0.0, 0.0)
    assert math.isnan(unknown.generation(record.layers, chosen))
    assert math.isnan(unknown.prompt(record.layers, chosen))


def test_errors_are_the_greatest_of_checked_files(fast: Path) -> None:
    record = read_study(fast)
    table = table_of(record)
    chosen = [row_configuration(record.latest.iloc[place]) for place in (0, -1)]
    speeds = [
        (table.generation(record.layers, one), table.prompt(record.layers, one)) for one in chosen
    ]
    checks = tuple(
        SpeedCheck(one.to_json(), speed[0] * off, speed[1])
        for one, speed, off in zip(chosen, speeds, (1.25, 0.96), strict=True)
    )
    errors = table_of(record, checks=checks).errors(record.layers)
    assert errors == pytest.approx((0.2, 0.0))
    assert table.errors(record.layers) == (0.0, 0.0)


def test_alone_it_is_the_best_that_is_fast_enough(qsearch, fast: Path) -> None:
    record = read_study(fast)
    speeds = generation_speeds(record, fast, record.latest)
    assert speeds is not None
    limit = float(speeds.median())
    fitting = record.latest[speeds >= limit]
    picked = json.loads(qsearch("pick", fast, "--tokens-per-second", limit, "--json").output)
    assert picked["loss"] == fitting["loss"].min()
    assert picked["loss"] > record.latest["loss"].min()
    assert picked["speed"]["generation_tokens_per_second"] >= limit
    assert picked["speed"]["engine"] == "made"
    # The smallest that may be as good is fast enough, too.
    assert picked["smallest_alike"]["trial"] in set(fitting["trial"])
    text = qsearch("pick", fast, "--tokens-per-second", limit).output
    assert "tokens a second, of a prompt" in text
    assert "in made with 1 thread, a prediction" in text


def test_with_budgets_and_limits_it_keeps_both(qsearch, fast: Path, tmp_path: Path) -> None:
    record = read_study(fast)
    speeds = generation_speeds(record, fast, record.latest)
    assert speeds is not None
    limit = float(speeds.quantile(0.25))
    bits = float(record.latest[speeds >= limit]["average_bits"].median())
    fitting = record.latest[(speeds >= limit) & (record.latest["average_bits"] <= bits)]
    options = ("--bits", bits, "--tokens-per-second", limit)
    done = qsearch("export", fast, *options, "--format", "json", "--to", tmp_path / "out")
    assert done.code == 0, done.errors
    facts = json.loads((tmp_path / "out" / "qsearch.json").read_text())
    assert facts["loss"] == fitting["loss"].min()
    assert facts["tokens_per_second"] == limit
    most = float(record.latest["loss"].median())
    options = ("--max", f"loss={most}", "--tokens-per-second", limit)
    picked = json.loads(qsearch("pick", fast, *options, "--json").output)
    keeping = record.latest[(speeds >= limit) & (record.latest["loss"] <= most)]
    assert picked["average_bits"] == keeping["average_bits"].min()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trial", "1"), "--trial 1 is a configuration already; leave --tokens-per-second 1e"),
        (("--within", "1%"), "--within picks by the loss; leave budgets and limits out"),
        ((), "the fastest configuration generates"),
    ],
)
def test_what_cannot_be_is_refused(
    qsearch, fast: Path, options: tuple[str, ...], message: str
) -> None:
    done = qsearch("pick", fast, *options, "--tokens-per-second", "1e12")
    assert done.code == 2
    assert message in " ".join(done.errors.split())


def test_trainers_without_an_engine_are_refused(qsearch, finished: Path) -> None:
    done = qsearch("measure-speed", finished)
    assert done.code == 2
    assert "measures no speed" in done.errors
    done = qsearch("evaluate", finished, "--bits", "4", "--in", "made")
    assert "the study's trainer knows no such engine; it has none" in done.errors


def test_a_damaged_table_is_refused(qsearch, fast: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(fast, copy)
    path = copy / SPEED_FILE
    path.write_text(path.read_text().replace("made", "maid"))
    with pytest.raises(DamagedFileError, match="delete it, then run qsearch measure-speed again"):
        read_speed(copy)
    write_speed(copy, table_of(read_study(copy), other_generation=-1.0))
    with pytest.raises(DamagedFileError, match="times that nothing takes"):
        read_speed(copy)
