"""What calibration is worth: KL of one layer configuration for all layers, by rounding and scales.

SmolLM2 on WikiText-2's validation text, nothing trained, no adapter; the bytes are the same in all
cases. What is measured stays in ``data/calibration.json``, and is not measured again.

    python -m benchmarks.calibration [--recorded]
"""

from __future__ import annotations

import gc
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.training.data_facts import DataFacts

from benchmarks.language_models import Kept
from benchmarks.objectives import DATA, ROOT
from benchmarks.paper_text import environment, prepare_text
from benchmarks.recording import COMMIT, Benchmark, fill_table, only_recorded
from qsearch.plugins.components import build_components
from qsearch.space.configuration import Configuration
from qsearch.spec.study_spec import load_spec

DOCS = ROOT / "docs" / "quantizers.md"

TARGET = 0.75
"""KL with GPTQ and fitted scales, by gradients, over that of rounding to nearest."""

CALIBRATED_BY = ("inputs", "gradients")

_STUDY = Path(__file__).parent / "plans" / "recovery" / "smollm2.yaml"
_COMMON = (
    "trainer={name: ptq, fine_tune: false, batch_size: 1, eval_batch_size: 2,"
    " calibration_batches: 64, eval_precision: bfloat16}",
    "task.validation_tokens=4096",
)
QUANTIZERS = {
    "normal-float": (
        "quantizer={name: normal-float, bits: [3, 4], scale_bits: [8], scale_dtype: [float16],"
        " block_size: [64], scale_block_size: [64]}"
    ),
    "integer": "quantizer={name: integer, bits: [3, 4], group_size: [64]}",
    "gguf": "quantizer={name: gguf, types: [Q4_0, IQ4_NL, Q5_0]}",
}


@dataclass(frozen=True)
class Rounding:
    """How a quantizer finds codes and scales, as a column of the table."""

    title: str
    options: tuple[str, ...] = ()


NEAREST = Rounding("nearest")
BOTH = Rounding("both", ("quantizer.rounding=gptq", "quantizer.fit_scales=true"))
ROUNDINGS = (
    NEAREST,
    Rounding("fitted scales", BOTH.options[1:]),
    Rounding("GPTQ", BOTH.options[:1]),
    BOTH,
)


@dataclass(frozen=True)
class Case:
    """What is measured at once."""

    quantizer: str
    rounding: Rounding
    by: str

    @property
    def name(self) -> str:
        """What its values are kept under."""
        by = f", by {self.by}" if self.is_calibrated else ""
        return f"{self.quantizer}, {self.rounding.title}{by}"

    @property
    def is_calibrated(self) -> bool:
        """Whether weights depend on inputs; ggml's do, by their importance."""
        return self.rounding != NEAREST or self.quantizer == "gguf"

    @property
    def changes(self) -> tuple[str, ...]:
        """Overrides of the study."""
        own = (QUANTIZERS[self.quantizer], f"trainer.calibrate_by={self.by}")
        return (*_COMMON, *own, *self.rounding.options)


def main() -> None:
    """Measure what is missing; write the result file and the documentation's table."""
    is_recorded = only_recorded(__doc__)
    if not is_recorded:
        prepare_text(_STUDY)
    kept, measured = Kept(DATA / "calibration.json"), dict[Case, dict[str, float]]()
    facts = defaultdict[tuple[str, bool], DataFacts](DataFacts)
    for quantizer in QUANTIZERS:
        for case in (Case(quantizer, one, by) for by in CALIBRATED_BY for one in ROUNDINGS):
            if not is_recorded or case.name in kept:
                # Of one kind, moments are measured once: ggml's importances are diagonals.
                own = facts[case.by, case.rounding == NEAREST]
                measured[case] = kept.of(case.name, partial(measure, case, own))["values"]
    report(Benchmark("calibration", "python -m benchmarks.calibration"), measured)


def measure(case: Case, facts: DataFacts) -> dict[str, Any]:
    """Evaluate each layer configuration for all layers."""
    components = build_components(load_spec(_STUDY, case.changes, environment()))
    trainer, space = components.trainer, components.space
    assert isinstance(trainer, PTQTrainer)
    trainer.study.facts = facts
    values = {}
    for one in space.choices.layer_configurations:
        alike = Configuration({layer.name: one for layer in space.layers})
        (evaluation,) = trainer.evaluate([alike], "validation")
        name = f"{one['bits']} bits" if "bits" in one else str(one["type"])
        values[name] = evaluation.metrics["kl"].value
    del components, trainer
    gc.collect()
    return {"kl": min(values.values()), "values": values, "commit": COMMIT}


def report(benchmark: Benchmark, measured: dict[Case, dict[str, float]]) -> None:
    """Write rows, claims and the table."""
    titles = " | ".join(one.title for one in ROUNDINGS)
    lines = ["", f"| | calibrated by | {titles} |", "|---|---|" + "---|" * len(ROUNDINGS)]
    for quantizer in QUANTIZERS:
        first = measured.get(Case(quantizer, NEAREST, "inputs"), {})
        for name, by in ((name, by) for name in first for by in CALIBRATED_BY):
            cases = [Case(quantizer, one, by) for one in ROUNDINGS]
            values = {case: measured[case][name] for case in cases if case in measured}
            if len(values) < 2:
                continue
            cells = [f"{values[case]:.3f}" if case in values else "" for case in cases]
            lines.append(f"| `{quantizer}`, {name} | {by} | {' | '.join(cells)} |")
            kl = {case.rounding.title: round(value, 4) for case, value in values.items()}
            benchmark.row(quantizer=quantizer, name=name, calibrated_by=by, **kl)
            best = values.get(Case(quantizer, BOTH, "gradients"))
            if best is not None:
                benchmark.claim(
                    f"{quantizer}, {name}: KL with GPTQ and fitted scales, by gradients, over that"
                    " of rounding to nearest",
                    *(best / first[name], TARGET, "lower"),
                )
    fill_table(DOCS, benchmark.name, [*lines, ""])
    benchmark.write()


if __name__ == "__main__":
    main()
