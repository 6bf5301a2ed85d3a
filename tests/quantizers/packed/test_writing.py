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
CASES = ["bert", "llama"]
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


@pytest.fixture(params=CASES)
def kind(request):
    return request.param


@pytest.fixture
def written(tmp_path):
    model = small_model("bert")
    quantizer = Integer(Integer.Options())
    write_packed(model, "integer", {}, mixed_configuration(model, quantizer), tmp_path)
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
    model = small_model(kind)
    quantizer = NormalFloat(NormalFloat.Options())
    layers = list(with_adapters(model, quantizer, 4))
    write_packed_layers(model, model.state_dict(), quantizer, {}, layers, tmp_path)
    loaded = auto_class(kind).from_pretrained(tmp_path)
    for layer in layers:
        weight = model.get_submodule(layer.name).weight
        weight.data = quantizer.dequantize(layer.weight) + layer.B @ layer.A
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-4)


def test_a_loaded_model_can_be_saved_and_loaded_again(kind, tmp_path):
    model = small_model(kind)
    quantizer = NormalFloat(NormalFloat.Options())
    write_packed(model, "normal-float", {}, mixed_configuration(model, quantizer), tmp_path / "a")
    loaded = auto_class(kind).from_pretrained(tmp_path / "a")
    loaded.save_pretrained(tmp_path / "b")
    again = auto_class(kind).from_pretrained(tmp_path / "b")
    assert torch.equal(logits(again), logits(loaded))


def test_the_model_without_its_head_loads_too(kind, tmp_path):
    model = small_model(kind)
    quantizer = NormalFloat(NormalFloat.Options())
    write_packed(model, "normal-float", {}, mixed_configuration(model, quantizer), tmp_path)
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


def with_adapters(model, quantizer, rank):
    generator = torch.Generator().manual_seed(1)
    for layer in quantized_layers(model, quantizer, mixed_configuration(model, quantizer)):
        rows, columns = layer.weight.shape
        A = torch.randn(rank, columns, generator=generator) / columns**0.5
        B = torch.randn(rows, rank, generator=generator)
        yield replace(layer, A=A, B=B)


def test_adapters_of_different_ranks_are_refused(tmp_path):
    model = small_model("bert")
    quantizer = NormalFloat(NormalFloat.Options())
    layers = list(with_adapters(model, quantizer, 4))
    layers[0] = replace(layers[0], A=None, B=None)
    with pytest.raises(InputError, match=r"have one rank, not \[0, 4\]"):
        write_packed_layers(model, model.state_dict(), quantizer, {}, layers, tmp_path)


def test_a_large_checkpoint_is_written_in_shards(kind, tmp_path):
    model = small_model(kind)
    quantizer = NormalFloat(NormalFloat.Options())
    for name, size in (("one", "5GB"), ("many", "20KB")):
        layers = quantized_layers(model, quantizer, mixed_configuration(model, quantizer))
        write_packed_layers(
            model, model.state_dict(), quantizer, {}, layers, tmp_path / name, None, size
        )
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    found = auto_class(kind).from_pretrained(tmp_path / "many")
    expected = auto_class(kind).from_pretrained(tmp_path / "one")
    assert torch.equal(logits(found), logits(expected))


def test_bfloat16_is_for_what_is_not_packed(kind, tmp_path):
    model = small_model(kind)
    quantizer = NormalFloat(NormalFloat.Options())
    write_packed(model, "normal-float", {}, mixed_configuration(model, quantizer), tmp_path)
    expected = auto_class(kind).from_pretrained(tmp_path)
    loaded = auto_class(kind).from_pretrained(tmp_path, dtype=torch.bfloat16)
    moved = auto_class(kind).from_pretrained(tmp_path).to(torch.bfloat16)
    for name, module in expected.named_modules():
        if isinstance(module, PackedLinear):
            for other in (loaded, moved):
                assert torch.equal(other.get_submodule(name).dequantized(), module.dequantized())
    assert logits(loaded).dtype == torch.bfloat16
    for other in (loaded, moved):
        torch.testing.assert_close(logits(other).float(), logits(expected), atol=0.05, rtol=0.1)


def test_the_tokenizer_is_saved_beside_the_model(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"]))
    tokenizer = transformers.BertTokenizer(str(vocabulary))
    model = small_model("bert")
    quantizer = Integer(Integer.Options())
    out = tmp_path / "out"
    write_packed(model, "integer", {}, mixed_configuration(model, quantizer), out, tokenizer)
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


def test_truncated_weights_are_an_error(written):
    path = written / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model.safetensors: is not what was written"):
        auto_class("bert").from_pretrained(written)


def test_one_changed_byte_is_an_error(written):
    path = written / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"its SHA-256 differs"):
        auto_class("bert").from_pretrained(written)


def rewrite(directory, change):
    """Change the tensors and make the digest that of the changed file."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    digests = config["quantization_config"]["sha256"] | file_digests([path])
    edit_quantization_config(directory, sha256=digests)


def test_a_missing_packed_tensor_is_named(written):
    rewrite(written, lambda tensors: tensors.pop(f"{PACKED}.codes"))
    with pytest.raises(InputError, match=f"lacks the tensor {PACKED}.codes"):
        auto_class("bert").from_pretrained(written)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 3, dtype=torch.float16), torch.zeros(32, 1)])
def test_a_tensor_of_wrong_shape_or_type_is_named(written, wrong):
    rewrite(written, lambda tensors: tensors.update({f"{PACKED}.scales": wrong}))
    with pytest.raises(InputError, match=rf"tensor {PACKED}.scales is .* asks for torch.float16"):
        auto_class("bert").from_pretrained(written)


def test_a_layer_that_is_packed_but_not_told_of_is_named(written):
    layers = json.loads((written / "config.json").read_text())["quantization_config"]["layers"]
    del layers[PACKED]
    edit_quantization_config(written, layers=layers, sha256=None)
    with pytest.raises(InputError, match=f"holds {PACKED}.codes, which config.json does not ask"):
        auto_class("bert").from_pretrained(written)


def test_an_adapter_that_is_not_told_of_is_named(tmp_path):
    model, quantizer = small_model("bert"), NormalFloat(NormalFloat.Options())
    layers = with_adapters(model, quantizer, 4)
    write_packed_layers(model, model.state_dict(), quantizer, {}, layers, tmp_path)
    edit_quantization_config(tmp_path, adapter_rank=0, sha256=None)
    with pytest.raises(InputError, match=r"holds .*adapter_A, which config.json does not ask"):
        auto_class("bert").from_pretrained(tmp_path)


@pytest.mark.parametrize("change", ["layer", "rank"])
def test_settings_that_were_changed_are_an_error(written, change):
    path = written / "config.json"
    config = json.loads(path.read_text())
    if change == "layer":
        del config["quantization_config"]["layers"][PACKED]
    else:
        config["quantization_config"]["adapter_rank"] = 1
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantization_config is not what was written"):
        auto_class("bert").from_pretrained(written)


def test_a_lost_shard_is_named(tmp_path):
    model = small_model("bert")
    quantizer = NormalFloat(NormalFloat.Options())
    layers = quantized_layers(model, quantizer, mixed_configuration(model, quantizer))
    write_packed_layers(model, model.state_dict(), quantizer, {}, layers, tmp_path, None, "20KB")
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00003.safetensors: is missing"):
        auto_class("bert").from_pretrained(tmp_path)


def test_files_that_are_not_safetensors_are_an_error(written):
    path = written / "model.safetensors"
    path.write_bytes(b"x" * 100)
    edit_quantization_config(written, sha256=None)
    with pytest.raises(InputError, match=r"model.safetensors: cannot be read"):
        auto_class("bert").from_pretrained(written)


def test_a_packed_model_is_not_packed_again(written, tmp_path):
    model = auto_class("bert").from_pretrained(written)
    layer = Integer(Integer.Options()).choices().layer_configuration(0)
    with pytest.raises(InputError, match=r"PackedLinear; only torch.nn.Linear can be packed"):
        write_packed(model, "integer", {}, Configuration({PACKED: layer}), tmp_path / "again")


def test_a_layer_that_is_no_linear_layer_is_refused(tmp_path):
    model = small_model("bert")
    layer = Integer(Integer.Options()).choices().layer_configuration(0)
    configuration = Configuration({"bert.embeddings.word_embeddings": layer})
    with pytest.raises(InputError, match="Embedding"):
        write_packed(model, "integer", {}, configuration, tmp_path)
