"""Packed exports: written from float models, loaded with from_pretrained."""

import copy
import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch

from qsearch.errors import InputError
from qsearch.models.tables import find_tables

transformers = pytest.importorskip("transformers")

from qsearch_quantizers import use_compiled_product  # noqa: E402
from qsearch_quantizers.integer.quantizer import Integer  # noqa: E402
from qsearch_quantizers.normal_float.quantizer import NormalFloat  # noqa: E402
from qsearch_quantizers.packed import checkpoints, registration  # noqa: E402
from qsearch_quantizers.packed.linear import PackedLinear  # noqa: E402
from qsearch_quantizers.packed.stored_types import decode_factor, encode_factor  # noqa: E402
from qsearch_quantizers.packed.verification import file_digests, settings_digest  # noqa: E402
from qsearch_quantizers.packed.weight import PackedModule  # noqa: E402
from qsearch_quantizers.packed.writing import PackedExport, QuantizedLayer  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from tests.coalora.conftest import head_of, small_config  # noqa: E402

GROUPED = {"num_key_value_heads": 1}
MODELS = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {}),
    "llama": ("Llama", GROUPED),
    "llama, tied": ("Llama", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 16}),
    "mistral": ("Mistral", GROUPED),
    # It scales the rows of its embedding.
    "gemma3": ("Gemma3Text", {**GROUPED, "head_dim": 16, "tie_word_embeddings": True}),
}
WITH_TABLES = ("bert", "llama", "llama, tied", "gemma3")
PACKED = "bert.encoder.layer.1.output.dense"
NORMAL_FLOAT, INTEGER = NormalFloat(NormalFloat.Options()), Integer(Integer.Options())
BOTH_SCHEMES = Integer(Integer.Options(scheme=("symmetric", "asymmetric")))


def small_model(kind="bert"):
    torch.manual_seed(0)
    name, options = MODELS[kind]
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = small_config(name, intermediate_size=80, **tokens, **options)
    return getattr(transformers, f"AutoModelFor{head_of(name)}").from_config(config).eval()


def load(folder, kind="bert", **options):
    auto = getattr(transformers, f"AutoModelFor{head_of(MODELS[kind][0])}")
    return auto.from_pretrained(folder, **options)


def quantized(model, quantizer, rank=0):
    """All layers but the first, each quantized otherwise, perhaps with adapters."""
    generator = torch.Generator().manual_seed(1)
    choices = quantizer.choices()
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    inside = [(n, m) for n, m in linear if ".layer" in n]
    for place, (name, module) in enumerate(inside[1:]):
        layer = choices.layer_configuration(place * 37 % choices.size)
        weight = quantizer.quantize(module.weight, layer)
        if not rank:
            yield QuantizedLayer(name, weight)
            continue
        A = torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5
        B = torch.randn(module.out_features, rank, generator=generator)
        yield QuantizedLayer(name, weight, A, B)


def quantized_tables(model, quantizer):
    """The tables of a model, each quantized otherwise."""
    for place, table in enumerate(find_tables(model)):
        layer = quantizer.choices().layer_configuration(5 + 7 * place)
        weight = model.get_submodule(table.name).weight
        yield QuantizedLayer(table.name, quantizer.quantize(weight, layer))


def write(folder, layers, model=None, quantizer=INTEGER, dtype=torch.float32, adapter_bits=None):
    model, layers = model or small_model(), list(layers)
    export = PackedExport(
        model,
        model.state_dict(),
        quantizer,
        quantizer.options.model_dump(mode="json"),
        {layer.name: layer.weight.configuration for layer in layers},
        max(0 if layer.A is None else len(layer.A) for layer in layers),
        dtype,
        adapter_bits,
    )
    export.write(layers, folder)
    return export


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(12).view(2, 6)).logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A packed BERT, read-only for tests."""
    folder = tmp_path_factory.mktemp("packed") / "bert"
    write(folder, quantized(small_model(), INTEGER))
    return folder


@pytest.fixture
def written(checkpoint, tmp_path):
    """A packed BERT that a test may change."""
    return shutil.copytree(checkpoint, tmp_path / "written")


@pytest.mark.parametrize(
    ("kind", "quantizer", "rank"),
    [
        ("bert", BOTH_SCHEMES, 0),
        ("llama", NORMAL_FLOAT, 0),
        *((kind, NORMAL_FLOAT, 4) for kind in MODELS),
    ],
)
def test_loaded_logits_are_those_of_the_dequantized_model(kind, quantizer, rank, tmp_path):
    model = small_model(kind)
    layers = list(quantized(model, quantizer, rank))
    write(tmp_path, layers, model, quantizer)
    loaded = load(tmp_path, kind)
    packed = {n for n, module in loaded.named_modules() if isinstance(module, PackedLinear)}
    assert packed == {layer.name for layer in layers}
    for layer in layers:
        weight = quantizer.dequantize(layer.weight)
        model.get_submodule(layer.name).weight.data = weight + (layer.B @ layer.A if rank else 0)
    tolerance = 1e-5 if rank else 0
    torch.testing.assert_close(logits(loaded), logits(model), atol=tolerance, rtol=10 * tolerance)


@pytest.fixture(scope="module", params=WITH_TABLES)
def with_tables(request, tmp_path_factory):
    """The kind of a model, the model with dequantized weights, and it packed with its tables."""
    kind, folder = request.param, tmp_path_factory.mktemp("tables")
    model = small_model(kind)
    layers = [*quantized(model, NORMAL_FLOAT, 4), *quantized_tables(model, NORMAL_FLOAT)]
    write(folder, layers, model, NORMAL_FLOAT)
    for layer in layers:
        weight = NORMAL_FLOAT.dequantize(layer.weight)
        merged = weight if layer.A is None else weight + layer.B @ layer.A
        model.get_submodule(layer.name).weight.data = merged
    return kind, model, folder


def test_packed_tables_give_the_logits_of_the_dequantized_ones(with_tables):
    kind, model, folder = with_tables
    loaded = load(folder, kind)
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-4)
    packed = {table.name for table in find_tables(model)}
    stored = load_file(folder / "model.safetensors")
    shapes = {tuple(tensor.shape) for tensor in (*stored.values(), *loaded.state_dict().values())}
    assert not shapes & {tuple(model.get_submodule(name).weight.shape) for name in packed}
    assert not any(f"{name}.weight" in stored for name in (*packed, "lm_head"))


def test_packed_tables_are_saved_again_and_load_without_the_head(with_tables, tmp_path):
    kind, _, folder = with_tables
    load(folder, kind).save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again", kind)
    assert torch.equal(logits(again), logits(load(folder, kind)))
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = load(folder, kind).base_model(input_ids=ids).last_hidden_state
        for source in (folder, tmp_path / "again"):
            headless = transformers.AutoModel.from_pretrained(source)
            assert torch.equal(headless(input_ids=ids).last_hidden_state, expected)


def test_a_model_with_packed_tables_generates_and_is_trained_by_peft(with_tables, tmp_path):
    peft = pytest.importorskip("peft")
    kind, model, folder = with_tables
    loaded = load(folder, kind)
    if kind != "bert":
        inputs = {"input_ids": torch.arange(4)[None], "max_new_tokens": 6, "do_sample": False}
        assert torch.equal(loaded.generate(**inputs), model.generate(**inputs))
    target = next(name for name, one in loaded.named_modules() if isinstance(one, PackedLinear))
    adapted = peft.get_peft_model(loaded, peft.LoraConfig(r=2, target_modules=[target]))
    before = logits(adapted)
    adapted(input_ids=torch.arange(12).view(2, 6)).logits.square().sum().backward()
    trained = [one for one in adapted.parameters() if one.grad is not None]
    assert any(one.grad.abs().sum() > 0 for one in trained)
    torch.optim.SGD(trained, lr=0.1).step()
    expected = logits(adapted)
    assert not torch.equal(expected, before)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(load(folder, kind), tmp_path)
    torch.testing.assert_close(logits(again), expected)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_model_computes_the_same_by_its_compiled_product(with_tables):
    kind, _, folder = with_tables
    loaded = load(folder, kind)
    ids = torch.arange(3, 5).view(1, 2)
    with torch.no_grad():
        expected = loaded(input_ids=ids).logits
        others = use_compiled_product(loaded)
        packed = [name for name, one in loaded.named_modules() if isinstance(one, PackedModule)]
        assert set(others) < set(packed)
        compiled = loaded(input_ids=ids).logits
    torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-4)


def test_packed_tables_keep_their_codes_in_another_type(with_tables):
    kind, model, folder = with_tables
    expected = model.get_input_embeddings().weight
    for other in (load(folder, kind, dtype=torch.bfloat16), load(folder, kind).bfloat16()):
        assert torch.equal(other.get_input_embeddings().dequantized(), expected)
        assert logits(other).dtype == torch.bfloat16
        torch.testing.assert_close(logits(other).float(), logits(model), atol=0.2, rtol=0.2)


def test_tied_weights_stay_tied_when_transformers_ties_them_again(with_tables):
    kind, _, folder = with_tables
    loaded = load(folder, kind)
    expected = logits(loaded)
    loaded.tie_weights()
    assert torch.equal(logits(loaded), expected)
    assert torch.equal(logits(copy.deepcopy(loaded)), expected)


def test_an_embedding_that_computes_something_else_is_refused(tmp_path):
    model = small_model()
    table = model.bert.embeddings.word_embeddings
    table.max_norm = 1.0
    with pytest.raises(InputError, match=r"'bert\..*word_embeddings' is a Embedding, which"):
        write(tmp_path, quantized_tables(model, INTEGER), model)


def test_a_layer_that_is_tied_to_another_is_refused(tmp_path):
    model = small_model("llama, tied")
    layer = INTEGER.choices().layer_configuration(0)
    head = QuantizedLayer("lm_head", INTEGER.quantize(model.lm_head.weight, layer))
    with pytest.raises(InputError, match="'lm_head' shares its weight with another module"):
        write(tmp_path, [head], model)


def test_an_adapter_of_an_embedding_is_refused(tmp_path):
    model = small_model()
    (table,) = quantized_tables(model, INTEGER)
    rows, width = table.weight.shape
    with pytest.raises(InputError, match="cannot have an adapter in a packed export"):
        write(tmp_path, [replace(table, A=torch.ones(2, width), B=torch.ones(rows, 2))], model)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_model_without_its_head_loads_too(kind, tmp_path):
    write(tmp_path, quantized(small_model(kind), INTEGER), small_model(kind))
    headless = transformers.AutoModel.from_pretrained(tmp_path)
    # Saved without its head, it loads into both kinds of model again.
    headless.save_pretrained(tmp_path / "headless")
    again = transformers.AutoModel.from_pretrained(tmp_path / "headless")
    headed = load(tmp_path / "headless", kind).base_model
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = load(tmp_path, kind).base_model(input_ids=ids).last_hidden_state
        for model in (headless, again, headed):
            assert torch.equal(model(input_ids=ids).last_hidden_state, expected)


def test_bfloat16_is_for_what_is_not_packed(tmp_path):
    write(tmp_path, quantized(small_model(), NORMAL_FLOAT, 4), quantizer=NORMAL_FLOAT)
    expected = load(tmp_path)
    for other in (load(tmp_path, dtype=torch.bfloat16), load(tmp_path).to(torch.bfloat16)):
        packed, right = (model.get_submodule(PACKED) for model in (other, expected))
        assert packed.adapter_A.dtype == packed.bias.dtype == torch.bfloat16
        assert torch.equal(packed.dequantized(), right.dequantized())
        assert logits(other).dtype == torch.bfloat16
        torch.testing.assert_close(logits(other).float(), logits(expected), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("kind", ["bert", "llama, tied"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_not_packed_is_stored_in_16_bits_and_computed_in_the_models_type(
    kind, dtype, tmp_path
):
    model = small_model(kind)
    layers = list(quantized(model, INTEGER, 4))
    export = write(tmp_path, layers, model, INTEGER, dtype)
    stored = load_file(tmp_path / "model.safetensors")
    packed = {name for layer in layers for name in (f"{layer.name}.codes", f"{layer.name}.scales")}
    assert {tensor.dtype for name, tensor in stored.items() if name not in packed} == {dtype}
    assert export.checkpoint.file_bytes == sizes(tmp_path)
    # The model with its values rounded to the type by hand, which computes in float32.
    for layer in layers:
        weight = INTEGER.dequantize(layer.weight)
        weight += layer.B.to(dtype).float() @ layer.A.to(dtype).float()
        model.get_submodule(layer.name).weight.data = weight
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight") not in {layer.name for layer in layers}:
            parameter.data = parameter.data.to(dtype).float()
    loaded = load(tmp_path, kind)
    assert {one.dtype for one in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-4)
    assert {one.dtype for one in load(tmp_path, kind, dtype=dtype).parameters()} == {dtype}


def test_a_value_that_the_type_cannot_hold_is_refused(tmp_path):
    model = small_model()
    model.classifier.bias.data[1] = -1e5
    with pytest.raises(InputError, match=r"--dtype float16: classifier.bias .* 1e.05, .* 65504; "):
        write(tmp_path, quantized(model, INTEGER), model, dtype=torch.float16)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_an_adapter_of_8_bits_is_that_of_its_codes(kind, tmp_path):
    model = small_model(kind)
    layers = list(quantized(model, INTEGER, 4))
    export = write(tmp_path, layers, model, adapter_bits=8)
    assert export.checkpoint.file_bytes == sizes(tmp_path)
    rounded = []
    for layer in layers:
        A, B = (decode_factor(*encode_factor(one), torch.float32) for one in (layer.A, layer.B.T))
        rounded.append(replace(layer, A=A, B=B.T))
        # Half a step of a block's scale, and half a unit of the scale's own type.
        assert (A - layer.A).abs().max() <= layer.A.abs().max() * (0.5 / 127 + 2**-9)
    loaded = load(tmp_path, kind)
    write(tmp_path / "rounded", rounded, small_model(kind))
    expected = logits(load(tmp_path / "rounded", kind))
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-4)
    loaded.to(torch.bfloat16).save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again", kind, dtype=torch.float32)
    first, second = (one.get_submodule(layers[0].name) for one in (loaded, again))
    for name in ("adapter_A_codes", "adapter_A_scales", "adapter_B_codes", "adapter_B_scales"):
        assert torch.equal(first.get_buffer(name), second.get_buffer(name))


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}


def test_an_adapter_of_another_rank_than_is_said_is_refused(tmp_path):
    first, *others = quantized(small_model(), INTEGER, 4)
    with pytest.raises(InputError, match=rf"layer '{first.name}' has rank 0, not 4"):
        write(tmp_path, [replace(first, A=None, B=None), *others])


def test_a_large_checkpoint_is_written_in_shards_and_a_lost_one_is_named(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "MAX_FILE_BYTES", 20_000)
    write(tmp_path, quantized(small_model(), INTEGER))
    assert torch.equal(logits(load(tmp_path)), logits(load(checkpoint)))
    shard = sorted(tmp_path.glob("model-00002-of-*.safetensors"))[0]
    shard.unlink()
    refused(tmp_path, rf"{shard.name}: is missing")


@pytest.mark.parametrize("loaded_before", [True, False])
def test_the_format_is_registered_whichever_package_is_imported_first(
    loaded_before, tmp_path, monkeypatch
):
    (tmp_path / "their_registry.py").write_text("names = []\n")
    (tmp_path / "our_loading.py").write_text("import their_registry as r; r.names += ['qsearch']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registration, "REGISTRY", "their_registry")
    monkeypatch.setattr(registration, "LOADING", "our_loading")
    for name in ("their_registry", "our_loading"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if loaded_before:
        __import__("their_registry")
    registration.register_with_transformers()
    assert __import__("their_registry").names == ["qsearch"]


def edit(folder, signed=True, **changes):
    """Change fields as who edits the file would; if signed, digests stay true of the rest."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    section = config["quantization_config"]
    section |= changes
    if signed and "sha256" not in changes:
        names = ("quantizer", "quantizer_options", "layers", "adapter_rank", "adapter_bits")
        settings = {name: section[name] for name in names}
        section["sha256"]["quantization_config"] = settings_digest(settings)
    path.write_text(json.dumps(config))


def refused(folder, message):
    with pytest.raises(InputError, match=message):
        load(folder)


LAYER = {"bits": 2, "group_size": 32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format_version": 2},
            "format_version: must be 3 for this version of qsearch .export again., not 2",
        ),
        (
            {"adapter_rank": -1},
            "adapter_rank: must be a whole number of 0 or more, or a section of them, not -1",
        ),
        ({"adapter_rank": {"a": "4"}}, "adapter_rank: must be a whole number .*'4'"),
        ({"adapter_rank": 4}, "lacks the tensor .*adapter_A"),
        ({"adapter_rank": 4, "adapter_bits": 8}, "lacks the tensor .*adapter_A_codes"),
        ({"adapter_bits": 4}, "adapter_bits: must be 8 or null, not 4"),
        ({"surprise": 1}, "surprise: unknown field"),
        ({"quantizer_options": {"bit": [4]}}, "quantizer_options.bit: unknown option"),
        ({"layers": None}, "layers: must be a section of layers, not None"),
        ({"layers": {"classifier": {"bits": [4]}}}, r"layers.classifier.bits.*, not \[4\]"),
        ({"layers": {"no.layer": LAYER}}, "no layer 'no.layer'"),
        ({"layers": {"classifier": {**LAYER, "bits": 5}}}, "'classifier'.*allowed"),
        (
            {"layers": {"bert.embeddings.LayerNorm": LAYER}},
            "LayerNorm; only torch.nn.Linear and Embedding can be packed",
        ),
        (
            {"layers": {PACKED: LAYER, PACKED.removeprefix("bert."): LAYER}},
            "PackedLinear; only torch.nn.Linear and Embedding can be packed",
        ),
        ({"layers": {}, "sha256": None}, r"holds bert.*codes, which config.json does not ask"),
        ({"quantizer": "no-such"}, "no-such.*installed"),
        (
            {"quantizer_options": {"bits": [5]}},
            r"quantizer_options.bits: .* \[2, 3, 4, 8\], not \[5\]",
        ),
    ],
)
def test_a_quantization_config_that_cannot_be_read_says_why(written, changes, message):
    edit(written, **changes)
    refused(written, message)


@pytest.mark.parametrize("change", [{"layers": {}}, {"sha256": {"model.safetensors": "0"}}])
def test_settings_that_were_changed_are_an_error(written, change):
    edit(written, signed=False, **change)
    refused(written, "quantization_config is not what was written")


def test_changed_weights_are_an_error(written):
    path = written / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    refused(written, r"model.safetensors: is not what was written .its SHA-256 differs")


def test_files_that_are_not_safetensors_are_an_error(written):
    (written / "model.safetensors").write_bytes(b"x" * 100)
    edit(written, sha256=None)
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
    section = json.loads((written / "config.json").read_text())["quantization_config"]
    edit(written, sha256=section["sha256"] | file_digests([path]))
    refused(written, message)


def test_an_adapter_that_the_configuration_lacks_is_named(tmp_path):
    write(tmp_path, quantized(small_model(), INTEGER, 4))
    edit(tmp_path, adapter_rank=0, sha256=None)
    refused(tmp_path, r"holds .*adapter_A, which config.json does not ask")
