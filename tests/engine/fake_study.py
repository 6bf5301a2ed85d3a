"""Spaces, fake studies and command lines that several test modules use."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from sqlalchemy.event import listen

from qsearch._arrays import Floats, Integers
from qsearch.cli import main as cli
from qsearch.experiment.schema import create_tables
from qsearch.experiment.url import open_engine
from qsearch.monitoring.events import Event, Observer, read_events
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split, TrainReport
from qsearch.plugins.registry import load_plugin
from qsearch.plugins.trial_columns import metric_columns
from qsearch.space.configuration import Choices, Configuration, Knob
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import FUSED_ROLES, LayerSpec
from qsearch.spec.sections import OBJECTIVE
from qsearch.spec.study_spec import StudySpec
from qsearch.spec.yaml_text import dump_yaml
from qsearch.storage.paths import LOG
from qsearch.storage.study_record import StudyRecord, read_study

FIXTURES = Path(__file__).parent / "fixtures"

NORMAL_FLOAT = Choices(
    (
        Knob("bits", (2, 3, 4, 8)),
        Knob("scale_bits", (2, 3, 4, 8)),
        Knob("scale_dtype", ("bfloat16", "float16", "float32")),
        Knob("block_size", (16, 32, 64)),
        Knob("scale_block_size", (16, 64, 256)),
    )
)
INTEGER = Choices(
    (Knob("bits", (2, 3, 4, 8)), Knob("group_size", (32, 64)), Knob("symmetric", ("yes",)))
)
SHAPES = {
    "query": (384, 384),
    "key": (384, 384),
    "value": (384, 384),
    "attention_output": (384, 384),
    "gate": (1536, 384),
    "up": (1536, 384),
    "down": (384, 1536),
}


def bits_of(choices: Choices) -> tuple[float, ...]:
    """Storage bits by choice index: design section 2 for normal float, 16-bit scales else."""
    table = []
    for layer in choices.layer_configurations:
        if "scale_bits" in layer:
            block = layer.integer("block_size")
            scale = 32 if layer["scale_dtype"] == "float32" else 16
            overhead = layer.integer("scale_bits") / block
            overhead += scale / (block * layer.integer("scale_block_size"))
        else:
            overhead = 16 / layer.integer("group_size")
        table.append(layer.integer("bits") + overhead)
    return tuple(table)


def make_layers(blocks: int) -> tuple[LayerSpec, ...]:
    return tuple(
        LayerSpec(f"layers.{block}.{role}", role, block, shape)
        for block in range(blocks)
        for role, shape in SHAPES.items()
    )


def shape_bits_of(choices: Choices) -> dict[tuple[int, int], tuple[float, ...]]:
    """Storage bits by shape and choice index, with 96 further ones for each row."""
    bits, shapes = bits_of(choices), set(SHAPES.values())
    return {shape: tuple(one + 96 / shape[1] for one in bits) for shape in shapes}


def make_space(
    blocks: int = 2, choices: Choices = NORMAL_FLOAT, fused: bool = False, shaped: bool = False
) -> ConfigurationSpace:
    ties = FUSED_ROLES if fused else ()
    by_shape = shape_bits_of(choices) if shaped else {}
    return ConfigurationSpace(make_layers(blocks), choices, bits_of(choices), ties, by_shape)


def uniform(space: ConfigurationSpace, bits: float) -> Integers:
    """The configuration (groups) of the layer configuration nearest to some bits."""
    return np.full(len(space.groups), np.abs(space.bits_table - bits).argmin(), dtype=np.int64)


def errors_of(space: ConfigurationSpace) -> Floats:
    """Plausible relative squared errors (layers × choices): fall fourfold a bit."""
    bits = np.array([c.integer("bits") for c in space.choices.layer_configurations])
    overhead = space.bits_table - bits
    row = 4.0 ** (1 - bits) * (1 - 0.3 * overhead)
    layers = 1 + 0.1 * np.arange(len(space.layers))[:, None] / len(space.layers)
    return np.asarray(row * layers, dtype=np.float64)


SMALL: dict[str, Any] = {"trainer__blocks": 1, "search__initial": 5, "search__candidates": 2}
"""Changes that make the fake study smaller."""

FAULTS = [
    {"kind": "nan", "layer": "block.0.key", "bits": 8},
    {"kind": "error", "layer": "block.0.query", "bits": 4, "first_round": 2},
]
"""Failures in the set, among the candidates, and of what an earlier round has completed."""


def study_values(**changes: Any) -> dict[str, Any]:
    """The fake study as the values of its YAML; changes name fields as ``section__field``."""
    values: dict[str, Any] = {
        "name": "fake",
        "seed": 3,
        "model": {"name": "none"},
        "task": {"name": "fake"},
        "quantizer": {"name": "fake"},
        "trainer": {"name": "fake", "blocks": 2},
        "search": {
            "rounds": 2,
            "initial": 6,
            "candidates": 2,
            "segments": 8,
            "average_bits": [2.25, 6.0],
        },
    }
    for key, value in changes.items():
        *sections, field = key.split("__")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[field] = value
    return values


def study_spec(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(study_values(**changes))


FAILING = study_spec(**SMALL, trainer__faults=FAULTS)
"""A small study in which some evaluations fail."""


def write_study_yaml(path: Path, **changes: Any) -> Path:
    path.write_text(dump_yaml(study_values(**changes)), encoding="utf-8")
    return path


def results(directory: Path) -> pd.DataFrame:
    """What must not depend on interruptions: all of the trials but wall time."""
    return read_study(directory).trials.drop(columns="seconds")


def of_objective(record: StudyRecord) -> StudyRecord:
    """The first round of a study as that of a Python objective, which has no metric."""
    first = replace(
        record.rounds[0],
        training_set=(),
        train_seconds=0.0,
        train_losses=(),
        full_precision=None,
    )
    trials = record.trials[record.trials["round"] == 1].assign(seen=False, standard_error=0.0)
    trials = trials.drop(columns=list(metric_columns(record.metric_names)))
    names = {"task": OBJECTIVE, "trainer": OBJECTIVE, "metrics": ()}
    return replace(record, **names, rounds=(first,), trials=trials)


def events_of(directory: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_events(directory / LOG) if line["event"] == kind]


class Stop(Exception):  # noqa: N818
    """Ends a study from its observer."""


def stopping_at(kind: str, count: int = 1, error: type[BaseException] = Stop) -> Observer:
    """An observer that raises at an event that comes for the given time."""
    seen = 0

    def observe(event: Event) -> None:
        nonlocal seen
        seen += event.kind == kind
        if event.kind == kind and seen == count:
            raise error

    return observe


def evaluations_of(
    monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None
) -> list[Configuration]:
    """Record what the fake trainer evaluates; at the given one, interrupt the study."""
    trainer = load_plugin("trainers", "fake")
    original = trainer.evaluate
    seen: list[Configuration] = []

    def evaluate(self: Any, configurations: list[Configuration], split: Split) -> list[Evaluation]:
        seen.extend(configurations)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        evaluated: list[Evaluation] = original(self, configurations, split)
        return evaluated

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    return seen


def trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the fake trainer take no steps."""

    def train(
        self: Any, configurations: object, round: int, progress: object = None
    ) -> TrainReport:
        self.round = round
        return TrainReport(0, 0.0, ())

    monkeypatch.setattr(load_plugin("trainers", "fake"), "train", train)


class Done(NamedTuple):
    """What a command came to."""

    code: int
    output: str
    errors: str

    def refused(self) -> str:
        """Require that input was refused in one line; return it."""
        assert self.code == 2, self.errors
        assert self.errors.startswith("qsearch: ")
        assert self.errors.count("\n") == 1
        assert "Traceback" not in self.errors
        return self.errors


def command_here(*arguments: str | Path) -> Done:
    """Run qsearch in this process; an exception is what a user sees as a traceback."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", ["qsearch", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        try:
            cli.main()
        except SystemExit as caught:
            code = caught.code if isinstance(caught.code, int) else 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Done(code, output.getvalue(), errors.getvalue())


def command_environment(**variables: str) -> dict[str, str]:
    root = Path(__file__).parent.parent.parent
    paths = os.pathsep.join([str(FIXTURES), str(root)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | variables


def in_child(work: Callable[[], None]) -> int:
    """Run work in a forked process and return its exit code: 0 when it comes to its end.

    A fork dies without clean-up by ``os._exit``, as a killed process does, but needs no imports.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def make_tables_at_once(url: str) -> list[int | None]:
    """Have two processes make Ax's tables in a database at once, and return their exit codes.

    The first has found none when the second begins, and makes them when that is to lock or to make
    any.
    """
    fork = multiprocessing.get_context("fork")
    first_has_looked, second_is_there = fork.Event(), fork.Event()

    def make_first() -> None:
        def await_second(connection: object, cursor: object, statement: str, *_: object) -> None:
            if statement.lstrip().startswith("CREATE") and not first_has_looked.is_set():
                first_has_looked.set()
                assert second_is_there.wait(500)

        engine = open_engine(url)
        listen(engine, "before_cursor_execute", await_second)
        create_tables(engine)

    def make_second() -> None:
        def tell_first(connection: object, cursor: object, statement: str, *_: object) -> None:
            if re.match(r"\s*(BEGIN|SELECT pg_advisory|CREATE)", statement):
                second_is_there.set()

        engine = open_engine(url)
        listen(engine, "before_cursor_execute", tell_first)
        assert first_has_looked.wait(500)
        create_tables(engine)

    makers = [fork.Process(target=make) for make in (make_first, make_second)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    return [maker.exitcode for maker in makers]


@contextlib.contextmanager
def process_that_holds(script: str, what: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script with an argument, in a process of its own, from when it says ``held``."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, what],
        stdout=subprocess.PIPE,
        text=True,
        env=command_environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def imported_by(arguments: Sequence[str], modules: set[str]) -> str:
    """Which of some modules a command imports: a sorted list, as text."""
    script = (
        "import sys; from qsearch.cli.main import main\n"
        f"sys.argv = {['qsearch', *arguments]!r}\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(sorted({modules!r} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=command_environment(),
        check=True,
    )
    return result.stdout.splitlines()[-1]
