"""Tokens a second and memory of a GGUF file, measured in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from qsearch.errors import EvaluationError
from qsearch.plugins.engines import EngineSpeed
from qsearch_coalora.llama_cpp.engine import Engine, opened

PROMPT, GENERATED, REPETITIONS = 128, 32, 3
"""Tokens of the prompt, tokens that follow it one by one, and how often both are computed."""


def clock(threads: int) -> Callable[[], float]:
    """Return what measures seconds of a computation.

    Of one thread it is the processor's time, so that other programs on the machine hardly count.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def file_speed(model: Path, adapter: Path | None, threads: int) -> EngineSpeed:
    """Measure a file in a new process, which takes no memory but llama.cpp's and Python's own.

    Raises:
        EvaluationError: If llama.cpp cannot load or compute it.
    """
    arguments = [str(model), str(threads), *([] if adapter is None else [str(adapter)])]
    done = subprocess.run(
        [sys.executable, "-m", __name__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EvaluationError(f"the speed of {model.name} cannot be measured: {last}")
    return EngineSpeed(**json.loads(done.stdout))


def measure(model: Path, adapter: Path | None, threads: int) -> EngineSpeed:
    """Measure a file in this process, whose memory must not have been larger before.

    Seconds are the least of all repetitions, which are those of a machine without other work.
    """
    before = _peak_bytes()
    with opened(model, PROMPT + GENERATED, threads, adapter) as engine:
        seconds = clock(threads)
        prompts, tokens = [], []
        for _ in range(REPETITIONS):
            engine.forget()
            prompts.append(_seconds(engine, 0, PROMPT, seconds))
            places = range(PROMPT, PROMPT + GENERATED)
            tokens += [_seconds(engine, place, 1, seconds) for place in places]
    return EngineSpeed(
        threads=threads,
        prompt_tokens=PROMPT,
        prompt_tokens_per_second=PROMPT / min(prompts),
        generation_tokens_per_second=1 / min(tokens),
        peak_bytes=_peak_bytes() - before,
    )


def _seconds(engine: Engine, first: int, count: int, now: Callable[[], float]) -> float:
    """Return what it takes to compute some tokens at a place, with the logits of the last."""
    tokens = [(7919 * place) % engine.vocabulary for place in range(first, first + count)]
    with engine.batch(tokens, first, every=False) as batch:
        started = now()
        engine.decode(batch)
        engine.library.llama_synchronize(engine.context)
        return now() - started


def _peak_bytes() -> int:
    """Return the most memory that this process has had."""
    status = Path("/proc/self/status")
    if status.is_file():  # Of getrusage, a new process inherits it.
        lines = (line.split() for line in status.read_text(encoding="utf-8").splitlines())
        return next(int(line[1]) * 1024 for line in lines if line[0] == "VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(model: str, threads: str, adapter: str | None = None) -> None:
    """Measure a file and print its speed as JSON."""
    measured = measure(Path(model), None if adapter is None else Path(adapter), int(threads))
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main(*sys.argv[1:])
