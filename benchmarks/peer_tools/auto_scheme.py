"""AutoRound's AutoScheme: dynamic programming on gradient × error."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.peer_tools.inputs import MODEL, TEXTS, read_inputs, write_allocations


def main(folder: Path, to: Path) -> None:
    """Write allocations; scores are kept, so each size after the first is quick."""
    os.environ["AR_AUTO_SCHEME_CACHE"] = str(folder / "auto_scheme")
    from auto_round import AutoRound, AutoScheme
    from auto_round.schemes import QuantizationScheme

    inputs = read_inputs(folder)
    found = {}
    for size in inputs.sizes:
        scheme = AutoScheme(
            avg_bits=size,
            options=[
                QuantizationScheme(bits=bits, group_size=inputs.group_size, sym=True)
                for bits in inputs.bits
            ],
            shared_layers=inputs.tied,
            nsamples=len(inputs.tokens),
            seqlen=len(inputs.tokens[0]),
            dataset=str(folder / TEXTS),
        )
        tool = AutoRound(
            str(folder / MODEL),
            scheme=scheme,
            iters=0,
            nsamples=len(inputs.tokens),
            seqlen=len(inputs.tokens[0]),
            dataset=str(folder / TEXTS),
            device_map="cpu",
            enable_torch_compile=False,
        )
        tool.post_init()
        chosen = {name: one["bits"] for name, one in tool.layer_config.items()}
        found[size] = {name: bits for name, bits in chosen.items() if bits <= max(inputs.bits)}
        write_allocations(to, found)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
