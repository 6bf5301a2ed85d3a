"""What "same seed, same machine" needs: equal threads, equal vector instructions, or neither?

The quickstart with fewer texts, steps and configurations is run in fresh processes that differ in
one thing each, and compared with the first. AVX2 instead of AVX-512 stands in for another CPU.

    python -m benchmarks.reproducibility
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

from benchmarks.objectives import ROOT
from benchmarks.recording import Benchmark
from qsearch.storage.study_record import read_study

CHANGES = (
    *("task.docstrings.train_texts=24", "task.docstrings.validation_texts=8"),
    *("quantizer.bits=[2,3,4]", "quantizer.scale_bits=[8]", "quantizer.scale_dtype=[float16]"),
    *("quantizer.block_size=[32,64]", "quantizer.scale_block_size=[64]"),
    *("trainer.first_steps=4", "trainer.steps=3", "trainer.batch_size=8"),
    *("search.rounds=2", "search.initial=6", "search.candidates=3", "search.segments=8"),
    "search.average_bits=[2.3,4.3]",
)
ONE, TWO = {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


@dataclass(frozen=True)
class Case:
    """A run and the one that it is compared with.

    Args:
        name: What differs.
        variables: Its environment variables.
        reference: Those of the other run.
        same: Whether the two must be equal.
    """

    name: str
    variables: Mapping[str, str]
    reference: Mapping[str, str]
    same: bool = False


CASES = (
    Case("nothing, 1 thread", ONE, ONE, same=True),
    Case("nothing, 2 threads", TWO, TWO, same=True),
    Case("NumPy's BLAS with 2 threads for 1", {**ONE, "OPENBLAS_NUM_THREADS": "2"}, ONE),
    Case("2 threads for 1", TWO, ONE),
    Case("AVX2 for the CPU's own instructions", {**ONE, **AVX2}, ONE),
)


def main() -> None:
    """Run all cases and write ``results/reproducibility.json``."""
    benchmark = Benchmark("reproducibility")
    with tempfile.TemporaryDirectory() as folder:
        references: dict[str, Path] = {}
        for number, case in enumerate(CASES):
            key = str(case.reference)
            if key not in references:
                references[key] = run(Path(folder) / f"reference-{number}", case.reference)
            found = compare(references[key], run(Path(folder) / f"case-{number}", case.variables))
            benchmark.row(differs=case.name, **found)
            if case.same:
                differing = found["rows"] - found["equal rows"]
                benchmark.claim(f"rows of trials that differ: {case.name}", differing, 0, "lower")
    benchmark.write()


def run(out: Path, variables: Mapping[str, str]) -> Path:
    """Run the study in a process with some environment variables, and return its directory."""
    assignments = [word for change in CHANGES for word in ("--set", change)]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "qsearch",
            "run",
            "studies/quickstart.yaml",
            *assignments,
            "--out",
            out,
        ],
        check=True,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **variables},
    )
    return out


def compare(first: Path, second: Path) -> dict[str, float]:
    """Return how two studies differ.

    Args:
        first: Directory of one.
        second: Directory of the other.

    Returns:
        By name: rows of trials, and those of them that are equal; tensors, and those equal; of
        configurations that both evaluated in round 1, the greatest difference of losses, nats, and
        in standard errors.
    """
    trials = [read_study(path).trials.drop(columns="seconds") for path in (first, second)]
    keys = ["round", "trial", "configuration"]
    both = trials[0].merge(trials[1], on=keys, suffixes=("", " other"))
    same = [
        both[name].eq(both[f"{name} other"]) | both[[name, f"{name} other"]].isna().all(axis=1)
        for name in trials[0].columns
        if name not in keys
    ]
    equal = pd.concat(same, axis=1).all(axis=1)
    of_first = both[both["round"] == 1]
    apart = (of_first["loss"] - of_first["loss other"]).abs()
    tensors = [tensors_of(path) for path in (first, second)]
    return {
        "rows": max(map(len, trials)),
        "equal rows": int(equal.sum()),
        "rows of the same configuration": len(both),
        "tensors": len(tensors[0]),
        "equal tensors": len(tensors[0].items() & tensors[1].items()),
        "loss apart": float(apart.max()),
        "standard errors apart": float((apart / of_first["standard_error"]).max()),
    }


def tensors_of(directory: Path) -> dict[str, bytes]:
    """Return what each tensor of a study's files holds."""
    return {
        f"{path.name} {name}": values.tobytes()
        for path in sorted((directory / "state").glob("*.safetensors"))
        for name, values in load_file(path).items()
    }


if __name__ == "__main__":
    main()
