"""Next-token log-probabilities of an export in vLLM; run by a Python that has vLLM, not qsearch.

usage: vllm_logits.py FOLDER DTYPE

It reads FOLDER/tokens.json (sequences of token ids), and writes FOLDER/log_probabilities.json:
those of the base and, if there is a folder ``adapter``, with it (sequences × tokens but the last ×
vocabulary).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # Compiling a sampler takes minutes.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def log_probabilities(llm: Any, tokens: list[list[int]], adapter: Any) -> list[list[list[float]]]:
    """Return those after each prefix, since with an adapter vLLM has none of the tokens inside."""
    from vllm import SamplingParams

    found = []
    sampling = SamplingParams(max_tokens=1, logprobs=-1, detokenize=False)
    for sequence in tokens:
        prompts = [{"prompt_token_ids": sequence[:end]} for end in range(1, len(sequence))]
        outputs = llm.generate(prompts, sampling, lora_request=adapter)
        rows = [output.outputs[0].logprobs[0] for output in outputs]
        found.append([[row[token].logprob for token in sorted(row)] for row in rows])
    return found


def main() -> None:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    folder, dtype = Path(sys.argv[1]), sys.argv[2]
    tokens = json.loads((folder / "tokens.json").read_text())
    adapter = folder / "adapter"
    lora = {}
    if adapter.exists():
        rank = json.loads((adapter / "adapter_config.json").read_text())["r"]
        lora = {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}
    llm = LLM(
        model=str(folder),
        dtype=dtype,
        enforce_eager=True,
        max_logprobs=-1,
        max_model_len=2 * max(map(len, tokens)),
        max_num_seqs=4,
        **lora,
    )
    found = {"base": log_probabilities(llm, tokens, None)}
    if lora:
        request = LoRARequest("tuned", 1, str(adapter))
        found["adapter"] = log_probabilities(llm, tokens, request)
    (folder / "log_probabilities.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
