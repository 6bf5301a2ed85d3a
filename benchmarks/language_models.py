"""Benchmarks that measure language models one after the other, and keep a record of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.objectives import DATA, ROOT
from benchmarks.paper_text import prepare_text
from benchmarks.recording import COMMIT, Benchmark, fill_table, machine, parts_to_measure
from qsearch.storage.files import write_json

TITLES = {"smollm2": "SmolLM2-135M", "gemma3": "Gemma 3 270M"}

DOCS = ROOT / "docs" / "benchmarks.md"

Values = dict[str, Any]


@dataclass(frozen=True)
class LanguageModels:
    """A benchmark of several language models.

    Args:
        benchmark: Its name. Each model's study is ``plans/BENCHMARK/MODEL.yaml``.
        measure: Returns what is recorded of a model, by its study and a folder for what is
            finished.
        report: Adds the rows and claims of a record under a title; returns its table as Markdown.
    """

    benchmark: str
    measure: Callable[[Path, Path], Values]
    report: Callable[[Benchmark, str, Mapping[str, Any]], list[str]]

    def run(self, description: str | None) -> None:
        """Measure the models asked for; write the result file and the documentation's table."""
        for name in parts_to_measure(description, TITLES):
            self._record(name)
        benchmark, lines = Benchmark(self.benchmark), list[str]()
        for name, title in TITLES.items():
            record = self.recorded(name)
            if record is not None:
                lines += self.report(benchmark, title, record)
        fill_table(DOCS, self.benchmark, ["", *lines])
        benchmark.write()

    def recorded(self, name: str) -> Values | None:
        """Return the record of a model, if there is one."""
        path = self._path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _path(self, name: str) -> Path:
        return DATA / self.benchmark / f"{name}.json"

    def _record(self, name: str) -> None:
        folder = ROOT / "runs" / self.benchmark / name
        folder.mkdir(parents=True, exist_ok=True)
        plan = Path(__file__).parent / "plans" / self.benchmark / f"{name}.yaml"
        prepare_text(plan)
        record = {"model": name, **self.measure(plan, folder)}
        self._path(name).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path(name), {**record, "machine": {**machine(), "commit": COMMIT}})


class Kept:
    """Measured values by name, in a file, so that a benchmark that was killed continues."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Values] = {}
        if path.is_file():
            self._values = json.loads(path.read_text(encoding="utf-8"))

    def __contains__(self, name: str) -> bool:
        """Return whether there are values under a name."""
        return name in self._values

    def of(self, name: str, measure: Callable[[], Values]) -> Values:
        """Return what is kept under a name, or measure and keep it."""
        if name not in self._values:
            self._values[name] = measure()
            write_json(self._path, self._values)
            print(f"{name:.40}: KL {self._values[name]['kl']:.5f}", flush=True)
        return self._values[name]
