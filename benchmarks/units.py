"""What users deploy: bytes of everything that ships, and what storing it in fewer bits costs.

Parts are measured apart, each in a module of its own, and are recorded under ``data/units``;
``results/units.json`` has all that are recorded. A further part is an entry of :data:`PARTS`.

    python -m benchmarks.units [PART …] [--recorded]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

from benchmarks.objectives import DATA
from benchmarks.recording import COMMIT, Benchmark, Claim, machine, parts_to_measure
from benchmarks.units_bytes import measure_bytes
from benchmarks.units_metrics import measure_metrics
from benchmarks.units_perplexity import measure_perplexity
from benchmarks.units_stored_types import measure_stored_types

PARTS: Mapping[str, Callable[[Benchmark], None]] = {
    "bytes": lambda benchmark: measure_bytes(benchmark, "minilm", "smollm2"),
    "bytes-mpnet": lambda benchmark: measure_bytes(benchmark, "mpnet"),
    "bytes-gemma3": lambda benchmark: measure_bytes(benchmark, "gemma3"),
    "stored-types-minilm": partial(measure_stored_types, "sst2-minilm"),
    "stored-types-smollm2": partial(measure_stored_types, "wikitext2-smollm2"),
    "metrics": measure_metrics,
    "perplexity-smollm2": partial(measure_perplexity, "SmolLM2-135M"),
    "perplexity-gemma3": partial(measure_perplexity, "Gemma 3 270M"),
}

_RECORDS = DATA / "units"


def main() -> None:
    """Measure what is asked for, and write the result file of all that is recorded."""
    for part in parts_to_measure(__doc__, PARTS):
        benchmark = Benchmark("units")
        PARTS[part](benchmark)
        record_part(part, benchmark)
    joined = Benchmark("units")
    for part in PARTS:
        add_recorded(part, joined)
    joined.write()


def record_part(part: str, benchmark: Benchmark) -> None:
    """Keep what a part measured, and where."""
    _RECORDS.mkdir(parents=True, exist_ok=True)
    record = {
        "commit": COMMIT,
        "machine": machine(),
        "claims": [asdict(claim) for claim in benchmark.claims],
        "rows": benchmark.rows,
    }
    text = json.dumps(record, indent=1, allow_nan=False)
    (_RECORDS / f"{part}.json").write_text(text + "\n", encoding="utf-8")


def add_recorded(part: str, benchmark: Benchmark) -> None:
    """Add the claims and rows of a part, if it was measured, to a benchmark."""
    path = _RECORDS / f"{part}.json"
    if not path.is_file():
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    benchmark.claims += [Claim(**claim) for claim in record["claims"]]
    benchmark.rows += [{"part": part, "commit": record["commit"], **row} for row in record["rows"]]


if __name__ == "__main__":
    main()
