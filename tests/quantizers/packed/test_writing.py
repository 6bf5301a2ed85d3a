"""Packed checkpoints: written from float models, loaded with from_pretrained."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration

transformers = pytest.importorskip("transformers")

from qsearch_quantizers.integer.quantizer import Integer  # noqa: E402
from qsearch_quantizers.normal_float.quantizer import NormalFloat  # noqa: E402
from qsearch_quantizers.packed.linear import PackedLinear  # noqa: E402
from qsearch_quantizers.packed.verification import file_digests, settings_digest  # noqa: E402
from qsearch_quantizers.packed.writing import (  # noqa: E402
    quantized_layers,
    write_packed,
    write_packed_layers,
)
from safetensors.torch import load_file, save_file  # noqa: E402

SIZES = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "vocab_size": 50}
HEADS = {"num_attention_heads": 2}
GROUPED = {**HEADS, "num_key_value_heads": 1}
MODELS = {
    "bert": ("BertConfig", "BertForSequenceClassification", {**HEADS, "num_labels": 3}),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", {**HEADS, "num_labels": 3}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", GROUPED),
    "llama, tied": ("LlamaConfig", "LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**GROUPED, "head_dim": 16}),
    "mistral": ("MistralConfig", "MistralForCausalLM", GROUPED),
}
PACKED = "bert.encoder.layer.1.output.dense"


def small_model(kind):
    torch.manual_seed(0)
    config, model, options = MODELS[kind]
    sizes = {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    made = getattr(transformers, config)(**sizes, **options)
    return getattr(transformers, model)(made).eval()


def auto_class(kind):
    if "Sequence" in MODELS[kind][1]:
        return transformers.AutoModelForSequenceClassification
    return transformers.AutoModelForCausalLM


def mixed_configuration(model, quantizer):
    choices = quantizer.choices()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layer" in name
    ]
    # the model's first layer stays as it is
    return Configuration(
        {
            name: choices.layer_configuration(position * 37 % choices.size)
            for position, name in enumerate(names[1:])
        }
    )


def logits(model):
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        return model(input_ids=ids).logits


BOTH = pytest.mark.parametrize("kind", ["bert", "llama"])
NORMAL_FLOAT, INTEGER = NormalFloat(NormalFloat.Options()), Integer(Integer.Options())


def write(folder, kind="bert", quantizer=INTEGER):
    """Write a small model, packed, and return it."""
    model = small_model(kind)
    configuration = mixed_configuration(model, quantizer)
    write_packed(model, quantizer.name, {}, configuration, folder)
    return model


@pytest.fixture
def written(tmp_path):
    write(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "options", "quantizer"),
    [
        ("normal-float", {"bits": [2, 4]}, NormalFloat(NormalFloat.Options(bits=(2, 4)))),
        (
            "integer",
            {"scheme": ["symmetric", "asymmetric"]},
            Integer(Integer.Options(scheme=("symmetric", "asymmetric"))),
        ),
    ],
    ids=["normal-float", "integer"],
)
@BOTH
def test_loaded_logits_are_those_of_the_dequantized_model(kind, name, options, quantizer, tmp_path):
    model = small_model(kind)
    configuration = mixed_configuration(model, quantizer)
    before = copy.deepcopy(model.state_dict())
    write_packed(model, name, options, configuration, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert getattr(model.config, "quantization_config", None) is None

    loaded = auto_class(kind).from_pretrained(tmp_path)
    packed = {n for n, module in loaded.named_modules() if isinstance(module, PackedLinear)}
    assert packed == set(configuration)

    for layer, values in configuration.items():
        weight = model.get_submodule(layer).weight
        weight.data = quantizer.dequantize(quantizer.quantize(weight, values))
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("kind", MODELS)
def test_an_adapter_is_loaded_with_the_weights_of_every_class_of_model(kind, tmp_path):
    model, quantizer = small_model(kind), NORMAL_FLOAT
    layers = list(with_adapters(model, quantizer, 4))
    write_packed_layers(model, model.state_dict(), quantizer, {}, layers, tmp_path)
    loaded = auto_class(kind).from_pretrained(tmp_path)
    for layer in layers:
        weight = model.get_submodule(layer.name).weight
        weight.data = quantizer.dequantize(layer.weight) + layer.B @ layer.A
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-4)


@BOTH
def test_the_model_without_its_head_loads_too(kind, tmp_path):
    write(tmp_path, kind)
    whole = auto_class(kind).from_pretrained(tmp_path)
    headless = transformers.AutoModel.from_pretrained(tmp_path)
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = whole.base_model(input_ids=ids).last_hidden_state
        found = headless(input_ids=ids).last_hidden_state
    assert torch.equal(found, expected)
    # Saved without its head, it loads into both kinds of model again.
    headless.save_pretrained(tmp_path / "headless")
    again = transformers.AutoModel.from_pretrained(tmp_path / "headless")
    headed = auto_class(kind).from_pretrained(tmp_path / "headless")
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).last_hidden_state, expected)
        assert torch.equal(headed.base_model(input_ids=ids).last_hidden_state, expected)


def test_a_loaded_model_can_be_saved_and_loaded_again(written, tmp_path):
    loaded = auto_class("bert").from_pretrained(written)
    loaded.save_pretrained(tmp_path / "again")
    again = auto_class("bert").from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again), logits(loaded))


def test_bfloat16_is_for_what_is_not_packed(tmp_path):
    write(tmp_path, quantizer=NORMAL_FLOAT)
    expected = auto_class("bert").from_pretrained(tmp_path)
    loaded = auto_class("bert").from_pretrained(tmp_path, dtype=torch.bfloat16)
    moved = auto_class("bert").from_pretrained(tmp_path).to(torch.bfloat16)
    for name, module in expected.named_modules():
        if isinstance(module, PackedLinear):
            for other in (loaded, moved):
                assert torch.equal(other.get_submodule(name).dequantized(), module.dequantized())
    assert logits(loaded).dtype == torch.bfloat16
    for other in (loaded, moved):
        torch.testing.assert_close(logits(other).float(), logits(expected), atol=0.05, rtol=0.1)


def with_adapters(model, quantizer, rank):
    generator = torch.Generator().manual_seed(1)
    for layer in quantized_layers(model, quantizer, mixed_configuration(model, quantizer)):
        rows, columns = layer.weight.shape
        A = torch.randn(rank, columns, generator=generator) / columns**0.5
        B = torch.randn(rows, rank, generator=generator)
        yield replace(layer, A=A, B=B)


def write_layers(folder, layers, **options):
    model = small_model("bert")
    write_packed_layers(model, model.state_dict(), NORMAL_FLOAT, {}, layers, folder, **options)


def test_adapters_of_different_ranks_are_refused(tmp_path):
    first, *others = with_adapters(small_model("bert"), NORMAL_FLOAT, 4)
    with pytest.raises(InputError, match=r"have one rank, not \[0, 4\]"):
        write_layers(tmp_path, [replace(first, A=None, B=None), *others])


def test_a_large_checkpoint_is_written_in_shards_and_a_lost_one_is_named(tmp_path):
    layers = list(with_adapters(small_model("bert"), NORMAL_FLOAT, 4))
    write_layers(tmp_path / "one", layers)
    write_layers(tmp_path / "many", layers, max_shard_size="20KB")
    found = auto_class("bert").from_pretrained(tmp_path / "many")
    expected = auto_class("bert").from_pretrained(tmp_path / "one")
    assert torch.equal(logits(found), logits(expected))
    shard = sorted((tmp_path / "many").glob("model-00002-of-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name}: is missing"):
        auto_class("bert").from_pretrained(tmp_path / "many")


def test_the_tokenizer_is_saved_next_to_the_model(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"]))
    tokenizer = transformers.BertTokenizer(str(vocabulary))
    model, out = small_model("bert"), tmp_path / "out"
    write_packed(model, "integer", {}, mixed_configuration(model, INTEGER), out, tokenizer)
    assert transformers.AutoTokenizer.from_pretrained(out)("word")["input_ids"]


@pytest.mark.parametrize(
    "order", ["qsearch_quantizers, transformers", "transformers, qsearch_quantizers"]
)
def test_importing_the_package_is_enough_to_load(written, order):
    code = (
        f"import {order}\n"
        f"transformers.AutoModelForSequenceClassification.from_pretrained({str(written)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_a_quantizer_does_not_import_transformers():
    code = (
        "import sys, qsearch_quantizers.normal_float, qsearch_quantizers.integer\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def edit_quantization_config(directory, **changes):
    """Change fields as who edits the file would; digests stay true of the rest."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    section = config["quantization_config"]
    section.update(changes)
    if isinstance(section["sha256"], dict) and "sha256" not in changes:
        settings = {n: section[n] for n in ("quantizer", "quantizer_options", "layers")}
        settings["adapter_rank"] = section["adapter_rank"]
        section["sha256"]["quantization_config"] = settings_digest(settings)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "format_version is 1; this qsearch reads 2; export again"),
        ({"adapter_rank": -1}, "adapter_rank must be an integer from 0, not -1"),
        ({"adapter_rank": True}, "adapter_rank must be an integer from 0, not True"),
        ({"layers": {"classifier": {"bits": [4]}}}, "needs layers"),
        ({"adapter_rank": 4}, "lacks the tensor .*adapter_A"),
        ({"sha256": ["x"]}, "sha256 must be"),
        ({"sha256": {"model.safetensors": "0"}}, "quantization_config is not what was written"),
        ({"surprise": 1}, "unknown fields .*surprise"),
        ({"layers": None}, "needs layers"),
        ({"quantizer": "no-such"}, "no-such.*installed"),
        ({"quantizer_options": {"bits": [5]}}, "options of quantizer 'integer'"),
        ({"layers": {"no.layer": {"bits": 2, "group_size": 32}}}, "no layer 'no.layer'"),
        ({"layers": {"classifier": {"bits": 5, "group_size": 32}}}, "'classifier'.*allowed"),
    ],
)
def test_a_quantization_config_that_cannot_be_read_says_why(written, changes, message):
    edit_quantization_config(written, **changes)
    with pytest.raises(InputError, match=message):
        auto_class("bert").from_pretrained(written)


def refused(folder, message):
    with pytest.raises(InputError, match=message):
        auto_class("bert").from_pretrained(folder)


@pytest.mark.parametrize(
    "change", [lambda content: content[:-100], lambda content: content[:-1] + b"?"]
)
def test_changed_weights_are_an_error(written, change):
    path = written / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    refused(written, r"model.safetensors: is not what was written .its SHA-256 differs")


@pytest.mark.parametrize("change", [{"layers": {}}, {"adapter_rank": 1}])
def test_settings_that_were_changed_are_an_error(written, change):
    path = written / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= change
    path.write_text(json.dumps(config))
    refused(written, "quantization_config is not what was written")


def test_files_that_are_not_safetensors_are_an_error(written):
    (written / "model.safetensors").write_bytes(b"x" * 100)
    edit_quantization_config(written, sha256=None)
    refused(written, r"model.safetensors: cannot be read")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, "lacks the tensor .*scales"),
        (torch.zeros(3, 3, dtype=torch.float16), "scales is .* asks for torch.float16"),
        (torch.zeros(32, 1), "scales is .* asks for torch.float16"),
    ],
)
def test_a_tensor_that_is_missing_or_wrong_is_named(written, tensor, message):
    path = written / "model.safetensors"
    tensors = load_file(path) | {f"{PACKED}.scales": tensor}
    left = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(left, path, metadata={"format": "pt"})
    config = json.loads((written / "config.json").read_text())
    digests = config["quantization_config"]["sha256"] | file_digests([path])
    edit_quantization_config(written, sha256=digests)
    refused(written, message)


def test_packed_layers_that_the_configuration_lacks_are_named(written):
    edit_quantization_config(written, layers={}, sha256=None)
    refused(written, r"holds bert.*codes, which config.json does not ask")


def test_an_adapter_that_the_configuration_lacks_is_named(tmp_path):
    write_layers(tmp_path, with_adapters(small_model("bert"), NORMAL_FLOAT, 4))
    edit_quantization_config(tmp_path, adapter_rank=0, sha256=None)
    refused(tmp_path, r"holds .*adapter_A, which config.json does not ask")


def test_only_float_linear_layers_are_packed(written, tmp_path):
    layer = INTEGER.choices().layer_configuration(0)
    for model, name, kind in (
        (small_model("bert"), "bert.embeddings.word_embeddings", "Embedding"),
        (auto_class("bert").from_pretrained(written), PACKED, "PackedLinear"),
    ):
        with pytest.raises(InputError, match=f"{kind}; only torch.nn.Linear can be packed"):
            write_packed(model, "integer", {}, Configuration({name: layer}), tmp_path / "again")
