"""Packed checkpoints: written from float models, loaded with from_pretrained."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from qsearch.configuration import Configuration
from qsearch.errors import InputError

transformers = pytest.importorskip("transformers")

from qsearch_quantizers.checkpoint import write_packed  # noqa: E402
from qsearch_quantizers.integer import Integer  # noqa: E402
from qsearch_quantizers.normal_float import NormalFloat  # noqa: E402
from qsearch_quantizers.packed_linear import PackedLinear  # noqa: E402

SMALL = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "vocab_size": 50}
CASES = ["bert", "llama"]


def small_model(kind):
    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(**SMALL, num_attention_heads=2, num_labels=3)
        return transformers.BertForSequenceClassification(config).eval()
    config = transformers.LlamaConfig(**SMALL, num_attention_heads=2, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config).eval()


def auto_class(kind):
    return {
        "bert": transformers.AutoModelForSequenceClassification,
        "llama": transformers.AutoModelForCausalLM,
    }[kind]


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


def test_a_loaded_model_can_be_saved_and_loaded_again(kind, tmp_path):
    model = small_model(kind)
    quantizer = NormalFloat(NormalFloat.Options())
    write_packed(model, "normal-float", {}, mixed_configuration(model, quantizer), tmp_path / "a")
    loaded = auto_class(kind).from_pretrained(tmp_path / "a")
    loaded.save_pretrained(tmp_path / "b")
    again = auto_class(kind).from_pretrained(tmp_path / "b")
    assert torch.equal(logits(again), logits(loaded))


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
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"].update(changes)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version is 2; this qsearch reads 1"),
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
    with pytest.raises(Exception, match=r"(?i)incomplete|invalid|deserializ"):
        auto_class("bert").from_pretrained(written)


def test_a_missing_packed_tensor_is_an_error(written):
    from safetensors.torch import load_file, save_file

    path = written / "model.safetensors"
    tensors = load_file(path)
    name = next(key for key in tensors if key.endswith(".codes"))
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=name):
        auto_class("bert").from_pretrained(written)


def test_a_layer_that_is_no_linear_layer_is_refused(tmp_path):
    model = small_model("bert")
    layer = Integer(Integer.Options()).choices().layer_configuration(0)
    configuration = Configuration({"bert.embeddings.word_embeddings": layer})
    with pytest.raises(InputError, match="Embedding"):
        write_packed(model, "integer", {}, configuration, tmp_path)
