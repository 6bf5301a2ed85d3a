"""qsearch's files next to llama.cpp's presets of the same size, measured in llama.cpp.

For each model, llama.cpp quantizes the unquantized file by each preset, with the importance matrix
of the study's calibration text. One study then searches ggml's types with the presets' sizes as
budgets. Of each preset, the best configuration whose file is not larger is exported. All files are
loaded by llama.cpp, and compared with the unquantized model on test text that no search saw. What
is finished stays under ``runs/engines``, so a benchmark that was killed continues.

    python -m benchmarks.engines [--recorded] [smollm2 gemma3]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engine_files import FINAL, measure
from benchmarks.language_models import LanguageModels
from benchmarks.objectives import ROOT
from benchmarks.recording import Benchmark, fill_table
from qsearch.claims.paired_difference import PairedDifference, paired_difference

README = ROOT / "README.md"

SHOWN = "smollm2"
"""The model whose table is there."""

SMALL_BITS, SMALL_TARGET, LARGE_TARGET = 4.5, 0.75, 0.9
"""Bits of a file per weight up to which the first target holds, and both targets: of the KL of our
file over that of the preset's."""

SAVED_TARGET = 0.1
"""Share of the bytes saved at the same KL, with which the target is met, too."""


def main() -> None:
    """Measure what is missing; write the result file and the tables of the documentation."""
    models = LanguageModels("engines", measure, report)
    models.run(__doc__)
    record = models.recorded(SHOWN)
    if record is not None:
        fill_table(README, models.benchmark, ["", *shown(record)])


def shown(record: Mapping[str, Any]) -> list[str]:
    """Return the README's table of a model: of some presets, on the longest text measured."""
    files = record.get("whole test", record["files"])
    return _markdown([Compared(one) for one in files if one["preset"] in FINAL])


def report(benchmark: Benchmark, title: str, record: Mapping[str, Any]) -> list[str]:
    """Add a model's rows and claims; return its tables as Markdown."""
    lines = [f"### {title}: files in llama.cpp", ""]
    for text, name in (("", "files"), (" on the whole test text", "whole test")):
        pairs = [Compared(one) for one in record.get(name, ())]
        if not pairs:
            continue
        benchmark.claim(
            f"{title}{text}: greatest KL of a file of qsearch over that of its preset",
            *(max(one.ratio for one in pairs), 1.0, "lower"),
        )
        for one in pairs:
            _claim(benchmark, title + text, one, one.saved(pairs))
            benchmark.row(model=record["model"], text=name, **one.values(pairs))
        if name != "files":
            lines += [f"The same{text}:", ""]
        lines += [*_markdown(pairs), ""]
    lines += [
        f"The search took {record['minutes']:.0f} minutes ({record['evaluations']} evaluations).",
        "",
    ]
    for preset, reason in record["left out"].items():
        benchmark.row(model=record["model"], preset=preset, reason=reason)
        lines += [f"{preset} is left out: {reason}.", ""]
    return lines


class Compared:
    """What was measured of a preset's file and of qsearch's."""

    def __init__(self, measured: Mapping[str, Any]) -> None:
        self.preset: str = measured["preset"]
        self.theirs: Mapping[str, Any] = measured["llama.cpp"]
        self.ours: Mapping[str, Any] = measured["qsearch"]

    @property
    def ratio(self) -> float:
        """KL of qsearch's file over that of the preset's."""
        return float(self.ours["kl"] / self.theirs["kl"])

    @property
    def difference(self) -> PairedDifference:
        """KL of qsearch's file less that of the preset's, over the same sequences."""
        return paired_difference(self.ours["sequences"], self.theirs["sequences"])

    @property
    def speeds(self) -> tuple[float, float]:
        """Tokens that each generates a second, the preset's first."""
        first, second = (
            float(side["speed"]["generation_tokens_per_second"])
            for side in (self.theirs, self.ours)
        )
        return first, second

    def saved(self, pairs: Sequence[Compared]) -> float:
        """Return the share of bytes that the smallest file of the same KL or less saves."""
        alike = [one.ours["nbytes"] for one in pairs if one.ours["kl"] <= self.theirs["kl"]]
        nbytes = int(self.theirs["nbytes"])
        return 1 - min(alike, default=nbytes) / nbytes

    def values(self, pairs: Sequence[Compared]) -> dict[str, Any]:
        """Return a row of the result file."""
        difference, speeds = self.difference, self.speeds
        own = {
            "preset": self.preset,
            "bits": round(self.theirs["bits"], 3),
            "difference": round(difference.difference, 5),
            "low": round(difference.low, 5),
            "high": round(difference.high, 5),
            "saved_at_equal_kl": round(self.saved(pairs), 4),
        }
        for prefix, side, speed in zip(("", "own_"), (self.theirs, self.ours), speeds, strict=True):
            own |= {
                f"{prefix}bytes": side["nbytes"],
                f"{prefix}kl": round(side["kl"], 5),
                f"{prefix}kl_standard_error": round(side["kl_error"], 5),
                f"{prefix}same_top": round(side["same_top"], 4),
                f"{prefix}perplexity": round(side["perplexity"], 3),
                f"{prefix}tokens_per_second": round(speed, 1),
            }
        return own


def _claim(benchmark: Benchmark, title: str, one: Compared, saved: float) -> None:
    bits = one.theirs["bits"]
    target = SMALL_TARGET if bits <= SMALL_BITS else LARGE_TARGET
    if one.ratio > target and saved >= SAVED_TARGET:
        benchmark.claim(
            f"{title}: share of {one.preset}'s bytes ({bits:.2f} bits a weight) that qsearch's file"
            " of the same KL saves",
            *(saved, SAVED_TARGET, "higher"),
        )
        return
    benchmark.claim(
        f"{title}: KL of qsearch's file over that of {one.preset}'s of as many bytes"
        f" ({bits:.2f} bits a weight)",
        *(one.ratio, target, "lower"),
    )


def _markdown(pairs: Sequence[Compared]) -> list[str]:
    lines = [
        "| preset | MB, bits per weight | KL | qsearch: MB | KL | ratio | difference, ± 95 % |"
        " same top token | tokens per second |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in pairs:
        theirs, ours, difference = one.theirs, one.ours, one.difference
        lines.append(
            f"| {one.preset} | {theirs['nbytes'] / 1e6:.1f}, {theirs['bits']:.2f} |"
            f" {theirs['kl']:.4f} | {ours['nbytes'] / 1e6:.1f} | {ours['kl']:.4f} |"
            f" {one.ratio:.2f} | {difference.difference:+.4f} ± {difference.half_width:.4f} |"
            f" {theirs['same_top']:.3f}, {ours['same_top']:.3f} |"
            f" {one.speeds[0]:.0f}, {one.speeds[1]:.0f} |"
        )
    return lines


if __name__ == "__main__":
    main()
