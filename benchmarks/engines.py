"""qsearch's files next to llama.cpp's presets of the same size, measured in llama.cpp.

For each model, llama.cpp quantizes the unquantized file by each preset, with the importance matrix
of the study's calibration text. One study then searches ggml's types with the presets' sizes as
budgets. Of each preset, the best configuration whose file is not larger is exported. All files are
loaded by llama.cpp, and compared with the unquantized model on test text that no search saw. What
is finished stays under ``runs/engines``, so a benchmark that was killed continues.

    python -m benchmarks.engines [--recorded] [smollm2 gemma3]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.engine_files import measure
from benchmarks.language_models import LanguageModels
from benchmarks.recording import Benchmark
from qsearch.claims.paired_difference import paired_difference

SMALL_BITS, SMALL_TARGET, LARGE_TARGET = 4.5, 0.75, 0.9
"""Bits of a file per weight up to which the first target holds, and both targets: of the KL of our
file over that of the preset's."""


def main() -> None:
    """Measure what is missing; write the result file and the documentation's table."""
    LanguageModels("engines", measure, report).run(__doc__)


def report(benchmark: Benchmark, title: str, record: Mapping[str, Any]) -> list[str]:
    """Add a model's rows and claims; return its table as Markdown."""
    lines = [
        f"### {title}: files in llama.cpp",
        "",
        "| preset | MB, bits per weight | KL | qsearch: MB | KL | ratio | same top token |"
        " tokens per second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    files = [one for one in record["files"] if "qsearch" in one]
    for one in files:
        theirs, ours = one["llama.cpp"], one["qsearch"]
        ratio = ours["kl"] / theirs["kl"]
        difference = paired_difference(ours["sequences"], theirs["sequences"])
        alike = [row["qsearch"]["nbytes"] for row in files if row["qsearch"]["kl"] <= theirs["kl"]]
        saved = 1 - min(alike, default=theirs["nbytes"]) / theirs["nbytes"]
        target = SMALL_TARGET if theirs["bits"] <= SMALL_BITS else LARGE_TARGET
        benchmark.claim(
            f"{title}: KL of qsearch's file over that of {one['preset']}'s of as many bytes"
            f" ({theirs['bits']:.2f} bits a weight)",
            *(ratio, target, "lower"),
        )
        speeds = [side["speed"]["generation_tokens_per_second"] for side in (theirs, ours)]
        size, alike_top = theirs["nbytes"] / 1e6, (theirs["same_top"], ours["same_top"])
        benchmark.row(
            model=record["model"],
            preset=one["preset"],
            bits=round(theirs["bits"], 3),
            bytes=theirs["nbytes"],
            kl=round(theirs["kl"], 5),
            same_top=round(theirs["same_top"], 4),
            perplexity=round(theirs["perplexity"], 3),
            own_bytes=ours["nbytes"],
            own_kl=round(ours["kl"], 5),
            own_same_top=round(ours["same_top"], 4),
            own_perplexity=round(ours["perplexity"], 3),
            difference=round(difference.difference, 5),
            low=round(difference.low, 5),
            high=round(difference.high, 5),
            saved_at_equal_kl=round(saved, 4),
            tokens_per_second=round(speeds[0], 1),
            own_tokens_per_second=round(speeds[1], 1),
        )
        lines.append(
            f"| {one['preset']} | {size:.1f}, {theirs['bits']:.2f} | {theirs['kl']:.4f} |"
            f" {ours['nbytes'] / 1e6:.1f} | {ours['kl']:.4f} | {ratio:.2f} |"
            f" {alike_top[0]:.3f}, {alike_top[1]:.3f} | {speeds[0]:.0f}, {speeds[1]:.0f} |"
        )
    lines += [
        "",
        f"The search took {record['minutes']:.0f} minutes ({record['evaluations']} evaluations).",
        "",
    ]
    return lines


if __name__ == "__main__":
    main()
