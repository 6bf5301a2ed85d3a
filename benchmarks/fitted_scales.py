"""What fitting scales to a layer's inputs is worth: KL of one layer configuration for all layers.

SmolLM2 on WikiText-2's validation text, nothing trained, no adapter; the bytes are the same with
and without. What is measured stays in ``data/fitted-scales.json``, and is not measured again.

    python -m benchmarks.fitted_scales [--recorded]
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.language_models import Kept
from benchmarks.objectives import DATA, ROOT
from benchmarks.paper_text import environment, prepare_text
from benchmarks.recording import COMMIT, Benchmark, fill_table, only_recorded
from qsearch.plugins.components import build_components
from qsearch.space.configuration import Configuration
from qsearch.spec.study_spec import load_spec

DOCS = ROOT / "docs" / "quantizers.md"

TARGET = 0.75
"""KL with fitted scales over that without, weights rounded to nearest."""

_STUDY = Path(__file__).parent / "plans" / "recovery" / "smollm2.yaml"
_COMMON = (
    "trainer={name: ptq, fine_tune: false, batch_size: 1, eval_batch_size: 2,"
    " calibration_batches: 64, eval_precision: bfloat16}",
    "task.validation_tokens=4096",
)
_BLOCKS = (
    "quantizer={name: normal-float, bits: [3, 4], scale_bits: [8], scale_dtype: [float16],"
    " block_size: [64], scale_block_size: [64]}"
)
_GROUPS = "quantizer={name: integer, bits: [3, 4], group_size: [64]}"
_TYPES = "quantizer={name: gguf, types: [Q4_0, IQ4_NL, Q5_0]}"


@dataclass(frozen=True)
class Case:
    """A quantizer as it is, and with fitted scales."""

    title: str
    quantizer: str
    option: str | None = None

    def changes(self, fits: bool) -> tuple[str, ...]:
        """Return the overrides of the study."""
        options = [self.option] if self.option else []
        options += ["quantizer.fit_scales=true"] if fits else []
        return (*_COMMON, self.quantizer, *options)


CASES = (
    Case("`normal-float`, nearest", _BLOCKS),
    Case("`normal-float`, `rounding: gptq`", _BLOCKS, "quantizer.rounding=gptq"),
    Case("`integer`, nearest", _GROUPS),
    Case("`integer`, `rounding: gptq`", _GROUPS, "quantizer.rounding=gptq"),
    Case("`gguf`", _TYPES),
)


def main() -> None:
    """Measure what is missing; write the result file and the documentation's table."""
    is_recorded = only_recorded(__doc__)
    if not is_recorded:
        prepare_text(_STUDY)
    kept, measured = Kept(DATA / "fitted-scales.json"), dict[str, list[Any]]()
    for case in CASES:
        names = {fits: f"{case.title} {'fitted' if fits else 'as is'}" for fits in (False, True)}
        if is_recorded and not all(name in kept for name in names.values()):
            continue
        measured[case.title] = [
            kept.of(name, partial(measure, case, fits)) for fits, name in names.items()
        ]
    report(Benchmark("fitted-scales", "python -m benchmarks.fitted_scales"), measured)


def measure(case: Case, fits: bool) -> dict[str, Any]:
    """Evaluate each layer configuration for all layers."""
    spec = load_spec(_STUDY, case.changes(fits), environment())
    components = build_components(spec)
    trainer, space = components.trainer, components.space
    values = {}
    for one in space.choices.layer_configurations:
        alike = Configuration({layer.name: one for layer in space.layers})
        (evaluation,) = trainer.evaluate([alike], "validation")
        name = f"{one['bits']} bits" if "bits" in one else str(one["type"])
        values[name] = evaluation.metrics["kl"].value
    del components, trainer
    gc.collect()
    return {"kl": min(values.values()), "values": values, "commit": COMMIT}


def report(benchmark: Benchmark, measured: dict[str, list[Any]]) -> None:
    """Write rows, claims and the table."""
    lines = ["", "| | as it is | with fitted scales | ratio |", "|---|---|---|---|"]
    for title, (plain, fitted) in measured.items():
        for name, before in plain["values"].items():
            after = fitted["values"][name]
            benchmark.row(quantizer=title, name=name, kl=round(before, 4), fitted=round(after, 4))
            lines.append(f"| {title}, {name} | {before:.3f} | {after:.3f} | {after / before:.2f} |")
            if "gptq" not in title:
                benchmark.claim(
                    f"{title}, {name}: KL with fitted scales over that without",
                    *(after / before, TARGET, "lower"),
                )
    fill_table(DOCS, benchmark.name, [*lines, ""])
    benchmark.write()


if __name__ == "__main__":
    main()
