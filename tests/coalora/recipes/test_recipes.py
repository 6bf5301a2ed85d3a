"""Recipes of other tools: what they say of each layer, what is refused, and how they are read."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qsearch_coalora.models.loading import load_shape
from qsearch_coalora.recipes.schemes import IntegerScheme, ggml_type, integer_scheme
from qsearch_quantizers.gguf.quantizer import GGUF
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from transformers import AutoModelForCausalLM, MPNetModel

from benchmarks.llama_quantize import quantize, types_of
from benchmarks.recipe_model import write_gguf
from benchmarks.recipe_tools.llama_quantize import BASE, types_file
from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsSpaceCheck
from qsearch.plugins.components import space_of
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.formats import recipe_formats
from qsearch.plugins.recipes import RecipeTarget, RecipeText
from qsearch.plugins.registry import load_plugin
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec, SpaceSpec
from qsearch.spec.yaml_text import dump_yaml, parse_yaml
from qsearch.storage.study_record import read_study
from qsearch.testing import ExporterConformance
from tests.coalora.conftest import WORDS, small_config
from tests.coalora.recipes.conftest import FLOAT, TIED, facts
from tests.engine.fake_study import command_here

INTEGER_TOOLS = ("auto-round", "gptqmodel", "llm-compressor", "modelopt")
TOOLS = (*INTEGER_TOOLS, "llama-quantize")
MakeJob = Callable[..., ExportJob]


def write(tool: str, job: ExportJob, folder: Path) -> str:
    """Write a job's recipe; return what its one file but for the card holds."""
    exporter = load_plugin("exporters", f"recipe:{tool}")()
    folder.mkdir(exist_ok=True)
    exporter.require_quantizer(job.quantizer)
    assert exporter.weight_bytes(job) == {}
    exporter.write(job, folder)
    (path,) = (path for path in folder.iterdir() if path.name != "README.md")
    return path.read_text()


def schemes(job: ExportJob) -> dict[str, IntegerScheme | None]:
    """The scheme of each layer of a job by its module path."""
    return {
        path: integer_scheme(job.quantizer, layer.shape, job.configuration[layer.name])
        for layer, path in zip(job.layers, job.paths, strict=True)
    }


def target(job: ExportJob) -> RecipeTarget:
    return RecipeTarget(job.model, tuple(job.layers), job.quantizer)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("shift", [0, 1])
def test_a_recipe_is_read_as_the_configuration_that_it_was_written_of(
    make_job: MakeJob, tmp_path: Path, tool: str, shift: int
) -> None:
    job = make_job(shift=shift)
    recipe = RecipeText(write(tool, job, tmp_path))
    readers = [name for name, reader in recipe_formats().items() if reader.reads(recipe)]
    assert readers == [f"recipe:{tool}"]
    read = recipe_formats()[f"recipe:{tool}"].read(recipe, target(job))
    assert Configuration(read) == job.configuration
    card = (tmp_path / "README.md").read_text()
    exporter = load_plugin("exporters", f"recipe:{tool}")()
    assert f"written for {getattr(exporter, 'tool', 'llama.cpp b11739')}:" in card
    assert "holds no weights" in card


# What each tool is told, against its own code or facts of it.


def test_auto_round_is_told_every_linear_layer_of_the_blocks(
    make_job: MakeJob, tmp_path: Path
) -> None:
    known, job = facts("auto-round"), make_job()
    layer_config = json.loads(write("auto-round", job, tmp_path))
    for path, scheme in schemes(job).items():
        entry = layer_config.pop(path)
        assert set(entry) <= set(known["fields"])
        assert (entry["bits"], entry["sym"], entry["act_bits"]) == (scheme.bits, True, 16)
        assert entry["group_size"] == scheme.group_size
    assert list(layer_config) == [f"model.{FLOAT}"]
    assert layer_config[f"model.{FLOAT}"]["bits"] == 16


def test_gptqmodel_has_one_rule_for_layers_that_engines_merge(
    make_job: MakeJob, tmp_path: Path
) -> None:
    known = facts("gptqmodel")
    job = make_job(bits=(3, 8), group_size=(32, 128), scheme=("symmetric", "asymmetric"), shift=1)
    assert None in {scheme.group_size for scheme in schemes(job).values()}
    config = json.loads(write("gptqmodel", job, tmp_path))
    assert set(config) <= set(known["fields"])
    assert config["meta"]["written_for"] == f"{known['package']} {known['version']}"
    rules = {rule[:2]: 0 for rule in config["dynamic"]}
    assert set(rules) <= set(known["prefixes"])
    for path, scheme in schemes(job).items():
        parent, _, name = path.rpartition(".")
        merged = [one for one, parts in known["merged modules"].items() if name in parts]
        for own in (path, *(f"{parent}.{one}" for one in merged)):
            (entry,) = (
                entry
                for rule, entry in config["dynamic"].items()
                if rule.startswith("+:") and re.match(rule[2:], own)
            )
            assert set(entry) <= set(known["rule fields"])
            assert entry["bits"] in known["bits"]
            assert entry["group_size"] in known["group sizes"]
            assert (entry["bits"], entry["sym"]) == (scheme.bits, scheme.symmetric)
            size = entry["group_size"]
            assert size == (-1 if scheme.group_size is None else scheme.group_size)
            assert entry.get("act_group_aware", True) == (size != -1)
    negative = [rule[2:] for rule in config["dynamic"] if rule.startswith("-:")]
    assert [pattern for pattern in negative if re.match(pattern, f"model.{FLOAT}")] == negative


def test_llm_compressors_groups_are_what_compressed_tensors_applies(
    make_job: MakeJob, tmp_path: Path
) -> None:
    quantization = pytest.importorskip("compressed_tensors.quantization")
    known, job = facts("llm-compressor"), make_job(bits=(2, 3, 8), scheme=("asymmetric",))
    text = write("llm-compressor", job, tmp_path)
    assert text.startswith(f"# Written by qsearch for {known['package']} {known['version']}.\n")
    ((stage, modifiers),) = parse_yaml(text, "recipe").items()
    ((kind, sections),) = modifiers.items()
    assert (stage[-6:], kind[-10:]) == ("_stage", "_modifiers")
    ((_, section),) = sections.items()
    assert set(section) <= set(known["modifier fields"])
    config = quantization.QuantizationConfig.model_validate(section)
    model = AutoModelForCausalLM.from_pretrained(job.model.name)
    quantization.apply_quantization_config(model, config)
    found = {
        path: module.quantization_scheme.weights
        for path, module in model.named_modules()
        if getattr(module, "quantization_scheme", None) is not None
    }
    assert {path: (one.num_bits, one.group_size, one.symmetric) for path, one in found.items()} == {
        path: (one.bits, one.group_size, one.symmetric) for path, one in schemes(job).items()
    }


def test_modelopt_enables_the_weight_quantizers_of_quantized_layers(
    make_job: MakeJob, tmp_path: Path
) -> None:
    known, job = facts("modelopt"), make_job(bits=(2, 4, 8), group_size=(32, 128))
    recipe = parse_yaml(write("modelopt", job, tmp_path), "recipe")
    assert list(recipe) == known["sections"]
    assert recipe["metadata"]["recipe_type"] in known["recipe types"]
    assert sorted(recipe["quantize"]) == known["quantize fields"]
    entries = recipe["quantize"]["quant_cfg"]
    for path, scheme in {**schemes(job), f"model.{FLOAT}": None}.items():
        name = f"{path}.weight_quantizer"
        *_, last = (one for one in entries if fnmatch.fnmatch(name, one["quantizer_name"]))
        assert set(last) <= set(known["entry fields"])
        if scheme is None:
            assert last == {"quantizer_name": "*", "enable": False}
            continue
        assert set(last["cfg"]) <= set(known["cfg fields"])
        blocks = (
            {"axis": 0} if scheme.group_size is None else {"block_sizes": {-1: scheme.group_size}}
        )
        assert last["cfg"] == {"num_bits": scheme.bits, **blocks}


def test_llama_cpp_quantizes_by_the_file_of_tensor_types(make_job: MakeJob, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp_py_sync")
    job = make_job()
    write("llama-quantize", job, tmp_path / "recipe")
    model = AutoModelForCausalLM.from_pretrained(job.model.name)
    write_gguf(model, tmp_path / "float.gguf")
    types = types_file(tmp_path / "recipe" / "tensor-types.txt")
    quantize(tmp_path / "float.gguf", tmp_path / "q.gguf", BASE, types=types)
    types = types_of(tmp_path / "q.gguf")
    kinds = [ggml_type(job.quantizer, one.shape, job.configuration[one.name]) for one in job.layers]
    assert sorted(types.values()) == sorted([*kinds, "BF16", "BF16", "BF16"])
    assert types["blk.1.ffn_down.weight"] == types["output.weight"] == "BF16"
    assert types["blk.0.attn_q.weight"] == kinds[0]


def test_ggmls_own_types_are_those_of_the_file_and_of_what_reads_it(
    make_job: MakeJob, tmp_path: Path
) -> None:
    types = ("IQ4_NL", "Q4_1", "Q5_0", "MXFP4", "Q8_0")
    options = GGUF.Options(types=types, importance="none")
    job = make_job(quantizer=GGUF(options), space=SpaceSpec(embeddings=True))
    recipe = RecipeText(write("llama-quantize", job, tmp_path / "recipe"))
    read = recipe_formats()["recipe:llama-quantize"].read(recipe, target(job))
    assert Configuration(read) == job.configuration
    lines = dict(line.split("=") for line in recipe.text.split())
    assert lines[r"^token_embd\.weight$"] == job.configuration["embed_tokens"]["type"]
    write_gguf(AutoModelForCausalLM.from_pretrained(job.model.name), tmp_path / "float.gguf")
    types = types_file(tmp_path / "recipe" / "tensor-types.txt")
    quantize(tmp_path / "float.gguf", tmp_path / "q.gguf", BASE, types=types)
    assert types_of(tmp_path / "q.gguf") == {
        pattern[1:-1].replace("\\", ""): kind for pattern, kind in lines.items()
    }


def test_the_command_names_a_type_that_llama_quantize_has(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(quantizer=GGUF(GGUF.Options(types=("MXFP4",), importance="none")))
    write("llama-quantize", job, tmp_path)
    command = "--tensor-type-file tensor-types.txt model-f16.gguf model.gguf MXFP4_MOE\n"
    assert command in (tmp_path / "README.md").read_text()


# What is refused


@pytest.mark.parametrize("tool", TOOLS)
def test_a_quantizer_that_no_tool_has_is_refused_with_its_fields(tool: str) -> None:
    exporter = load_plugin("exporters", f"recipe:{tool}")()
    fields = "fields bits, scale_bits, scale_dtype, block_size, scale_block_size"
    with pytest.raises(InputError, match=f"recipe:{tool}: .*'normal-float' .*{fields}"):
        exporter.require_quantizer(NormalFloat(NormalFloat.Options()))


@pytest.mark.parametrize(
    ("tool", "options", "said"),
    [
        (
            "auto-round",
            {"bits": (8,), "scheme": "asymmetric", "group_size": (32, 64)},
            "auto-round 0.16.1 cannot express this configuration:"
            " model.layers.0.self_attn.q_proj: bits 8 with zero points, of which it has those of"
            " bits 2, 3 or 4; model.layers.0.self_attn.k_proj: bits 8 with zero points, of",
        ),
        (
            "modelopt",
            {"bits": (4, 8), "scheme": "asymmetric"},
            "nvidia-modelopt 0.47.0 cannot express this configuration: model.layers.0.self_attn.q_"
            "proj: bits 4 with zero points, of which it has none",
        ),
        (
            "llm-compressor",
            {"group_size": (64,), "patterns": ("*",)},
            "down_proj: group_size 64, which does not divide 96 input features",
        ),
        (
            "llama-quantize",
            {"bits": (4, 3)},
            "ggml has no type of as many bits for model.layers.0.self_attn.q_proj: {'bits': 3,",
        ),
        (
            "gptqmodel",
            {"space": SpaceSpec()},
            "fuse layers that this configuration quantizes differently: layers.0.self_attn.q_proj",
        ),
        (
            "gptqmodel",
            {"space": SpaceSpec(tied="fused", embeddings=True)},
            "model.embed_tokens: it quantizes no embeddings (space.embeddings)",
        ),
    ],
)
def test_what_a_tool_cannot_express_is_refused_with_layers_and_fields(
    make_job: MakeJob, tmp_path: Path, tool: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        write(tool, make_job(**options), tmp_path)
    assert str(caught.value).startswith(f"--format recipe:{tool}: ")


@pytest.mark.parametrize("tool", INTEGER_TOOLS)
def test_an_output_head_of_its_own_is_a_layer_of_every_tool_but_embeddings_are_not(
    make_job: MakeJob, tmp_path: Path, tool: str
) -> None:
    job = make_job(space=SpaceSpec(tied="fused", embeddings=True))
    kept = tuple(layer for layer in job.layers if layer.role != "embedding")
    paths = [path for path in job.paths if "embed" not in path]
    chosen = Configuration({one.name: job.configuration[one.name] for one in kept})
    part = _Part(job, kept, paths, chosen)
    text = write(tool, part, tmp_path)  # type: ignore[arg-type]
    read = recipe_formats()[f"recipe:{tool}"].read(RecipeText(text), target(part))  # type: ignore[arg-type]
    assert Configuration(read) == chosen
    assert "lm_head" in chosen


class _Part:
    """A job of some of the layers of another."""

    def __init__(self, job: ExportJob, layers: Any, paths: Any, configuration: Any) -> None:
        self._job = job
        self.layers, self.paths, self.configuration = layers, paths, configuration

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)


@pytest.mark.parametrize("tool", TOOLS)
def test_check_accepts_a_study_whose_configurations_the_tool_expresses(
    make_job: MakeJob, tool: str
) -> None:
    job = make_job()
    space = space_of(job.quantizer, job.layers, TIED)
    exporter = load_plugin("exporters", f"recipe:{tool}")()
    assert isinstance(exporter, SupportsSpaceCheck)
    assert exporter.require_space(job.model, job.quantizer, space) == []


@pytest.mark.parametrize("tool", TOOLS)
def test_writing_twice_gives_the_same_text(make_job: MakeJob, tmp_path: Path, tool: str) -> None:
    first, second = (write(tool, make_job(), tmp_path / name) for name in ("first", "second"))
    assert first == second


def test_check_refuses_a_model_whose_layers_gguf_has_no_names_for(
    make_job: MakeJob, tmp_path: Path
) -> None:
    MPNetModel(small_config("MPNet")).save_pretrained(tmp_path)
    model, job = ModelSpec(name=str(tmp_path)), make_job()
    space = space_of(job.quantizer, load_shape(model)[0].layers, SpaceSpec())
    exporter = load_plugin("exporters", "recipe:llama-quantize")()
    said = (
        "GGUF has no architecture for models of type 'mpnet', and so no names for their layers,"
        " such as 'mpnet.encoder.layer.0.attention.attn.q'"
    )
    with pytest.raises(InputError, match=re.escape(said)):
        exporter.require_space(model, job.quantizer, space)


@pytest.mark.parametrize(
    ("tool", "space", "options", "said"),
    [
        (
            "auto-round",
            SpaceSpec(tied="fused", fixed={"*o_proj": {"bits": 4, "group_size": 32}}),
            {"scheme": "asymmetric"},
            "cannot express each configuration of the study: layers.0.self_attn.q_proj: bits 8 with"
            " zero points, of which it has those of bits 2, 3 or 4; layers.0.self_attn.k_proj: ",
        ),
        ("gptqmodel", SpaceSpec(), {}, "inference engines fuse 'layers.0.self_attn.q_proj', 'l"),
        (
            "llama-quantize",
            SpaceSpec(),
            {"bits": (3, 4)},
            "for layers.0.self_attn.q_proj: {'bits': 3, 'group_size': 32}; layers.0.self_attn.k_pr",
        ),
    ],
)
def test_check_refuses_a_study_some_of_whose_configurations_the_tool_cannot_express(
    make_job: MakeJob, tool: str, space: SpaceSpec, options: dict[str, Any], said: str
) -> None:
    job = make_job(**options)
    searched = space_of(job.quantizer, job.layers, space)
    exporter = load_plugin("exporters", f"recipe:{tool}")()
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        exporter.require_space(job.model, job.quantizer, searched)
    assert "o_proj" not in str(caught.value)


# Recipes that others wrote


def read(tool: str, text: str, job: ExportJob) -> dict[str, Any]:
    recipe, reader = RecipeText(text), recipe_formats()[f"recipe:{tool}"]
    assert reader.reads(recipe)
    return {name: dict(one) for name, one in reader.read(recipe, target(job)).items()}


AUTO_ROUND = {
    r"model.layers.\d+.self_attn.*": {"scheme": "W4A16G32"},
    "layers.0.mlp": {"bits": 8, "group_size": 64, "sym": True},
    "model.layers.0.mlp.gate_proj": {"bits": 4},
    "model.layers.0.mlp.up_proj": "W8A16G64",
    "0.mlp.down": {"bits": 16},
    r"model\.layers\.0\.mlp.*": {"bits": 4, "group_size": 32},
}
"""A pattern counts over a name, the last one most; an escaped dot is a backslash and a dot."""
EXPORTED = {
    "quantization_config": {
        "quant_method": "auto-round",
        "bits": 4,
        "group_size": 32,
        "sym": True,
        "extra_config": {
            r"model\.layers.*(gate|up)_proj": {"bits": 8, "group_size": 64},
            ".*mlp.*": {"bits": 4},
            "model.layers.0.mlp.down_proj": {"bits": 16, "data_type": "fp"},
        },
    }
}
GPTQ = {
    "bits": 4,
    "group_size": 32,
    "sym": True,
    "quant_method": "gptq",
    "dynamic": {
        r"-:.*0\.mlp\.down_proj": {},
        r".*0\.mlp\.(gate|up)_proj": {"bits": 8, "group_size": 64},
    },
}
COMPRESSOR = """
default_stage:
  default_modifiers:
    GPTQModifier:
      ignore: [lm_head, "re:.*0.mlp.down_proj"]
      config_groups:
        four:
          targets: [Linear]
          weights: {num_bits: 4, strategy: group, group_size: 32, symmetric: true}
        two:
          targets: ["re:.*mlp.*"]
          weights: {num_bits: 2, group_size: 64}
        eight:
          targets: ["re:.*0.mlp.gate_proj", "re:.*o_proj", model.layers.0.mlp.up_proj]
          weights: {num_bits: 8, group_size: 64}
    QuantizationModifier:
      config_groups:
        last: {targets: ["re:.*o_proj"], weights: {num_bits: 4, group_size: 32}}
"""
"""A name counts over a pattern, that over a class; of patterns the first, of modifiers the last."""
MODELOPT = """
quant_cfg:
- {quantizer_name: "*", enable: false}
- {quantizer_name: "*weight_quantizer", cfg: {num_bits: 4, block_sizes: {-1: 32, type: static}}}
- {quantizer_name: "*0.mlp.*weight_quantizer", cfg: {num_bits: 8, block_sizes: {-1: 64}}}
- {quantizer_name: "*0.mlp.down_proj.*", parent_class: nn.Linear, enable: false}
- {quantizer_name: "*", parent_class: nn.BatchNorm1d, enable: false}
algorithm: awq_lite
"""


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        ("auto-round", json.dumps(AUTO_ROUND)),
        ("auto-round", json.dumps(EXPORTED)),
        ("gptqmodel", json.dumps(GPTQ)),
        ("llm-compressor", COMPRESSOR),
        ("modelopt", MODELOPT),
    ],
)
def test_patterns_presets_and_defaults_are_read(make_job: MakeJob, tool: str, text: str) -> None:
    job = make_job(patterns=("layers.0.*",), group_size=(32, 64))
    found = read(tool, text, job)
    four, eight = {"bits": 4, "group_size": 32}, {"bits": 8, "group_size": 64}
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert found == {
        **{f"layers.0.self_attn.{name}": four for name in attention},
        **{f"layers.0.mlp.{name}": eight for name in ("gate_proj", "up_proj")},
    }


@pytest.mark.parametrize("prefix", ["", "model."])
def test_layers_are_called_with_a_head_around_the_model_or_without(
    make_job: MakeJob, prefix: str
) -> None:
    job = make_job(patterns=("*0.mlp.*",))
    rules = {rf"-:^{prefix}layers\.0\.mlp\.down_proj$": {}}
    text = json.dumps({"bits": 4, "group_size": 32, "dynamic": rules})
    names = [f"layers.0.mlp.{name}" for name in ("gate_proj", "up_proj")]
    assert list(read("gptqmodel", text, job)) == names


def test_the_first_pattern_of_tensor_types_counts(make_job: MakeJob) -> None:
    text = "ATTN_Q=q8_0 attn_=Q4_0\nffn_(gate|up)=q8_0 ffn_down=bf16"
    found = read("llama-quantize", text, make_job(patterns=("layers.0.*",)))
    assert {name.rpartition(".")[2]: one["bits"] for name, one in found.items()} == {
        **{"q_proj": 8, "k_proj": 4, "v_proj": 4, "o_proj": 4},
        **{"gate_proj": 8, "up_proj": 8},
    }


@pytest.mark.parametrize(
    ("tool", "text", "said"),
    [
        (
            "auto-round",
            {"model.layers.0.mlp.up_proj": {"bits": 5, "group_size": 32}},
            "layers.0.mlp.up_proj: bits 5, group_size 32, symmetric: quantizer 'integer' has bits",
        ),
        (
            "auto-round",
            {"layers.0.mlp.up_proj": {"bits": "four"}},
            "bits: must be an integer, not 'f",
        ),
        ("auto-round", {"model.layers.0.mlp.up_proj": {"scheme": "MXFP4"}}, "scheme: 'MXFP4'; of"),
        (
            "auto-round",
            {".*up_proj": {"bits": 4, "data_type": "mx_fp"}},
            "data_type: 'mx_fp'; 'int'",
        ),
        ("auto-round", {".*": {"bits": 4, "act_bits": 8}}, "act_bits: 8; activations stay in 16"),
        (
            "llm-compressor",
            {
                "QuantizationModifier": {
                    "config_groups": {
                        "one": {
                            "targets": ["Linear"],
                            "weights": {"num_bits": 4, "group_size": 32},
                            "input_activations": {"num_bits": 8},
                        }
                    }
                }
            },
            "config_groups.one.input_activations: must be null; activations are not quantized",
        ),
        (
            "modelopt",
            {
                "quant_cfg": [
                    {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
                    {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8}},
                ]
            },
            "input_quantizer: enabled; activations are not quantized",
        ),
        ("auto-round", {"(": {"bits": 4}}, "'(' is not a regular expression: missing )"),
        (
            "auto-round",
            {"quant_method": "auto-round", "bits": 4, "extra_config": [1]},
            "extra_config: must be a mapping, not [1]",
        ),
        (
            "gptqmodel",
            {"bits": 4, "dynamic": {".*q_proj": None}},
            "dynamic..*q_proj: must be a mapping, not None",
        ),
        (
            "llm-compressor",
            {"QuantizationModifier": {"config_groups": [1]}},
            "config_groups: must be a mapping, not [1]",
        ),
        (
            "gptqmodel",
            {"bits": 4, "group_size": 0, "dynamic": {}},
            "group_size: must be a positive",
        ),
        (
            "llm-compressor",
            {"QuantizationModifier": {"scheme": "NVFP4"}},
            "scheme: 'NVFP4'; of llm-compressor's presets, those of integers can be read: W2A16 to",
        ),
        (
            "modelopt",
            {"quant_cfg": [{"quantizer_name": "*", "cfg": {"num_bits": [4, 3], "axis": 0}}]},
            "num_bits: must be an integer, not [4, 3]",
        ),
        (
            "llama-quantize",
            "attn_q=q6_k",
            "layers.0.self_attn.q_proj: type q6_k: quantizer 'integer'",
        ),
    ],
)
def test_what_the_studys_quantizer_cannot_do_is_named(
    make_job: MakeJob, tool: str, text: Any, said: str
) -> None:
    recipe = text if isinstance(text, str) else json.dumps(text)
    with pytest.raises(InputError, match=re.escape(said)):
        read(tool, recipe, make_job(patterns=("layers.0.*",)))


class _Conformance(ExporterConformance):
    """The kit, with a real job: names of the recipe are those of an architecture."""

    tool: str

    @pytest.fixture(autouse=True)
    def _jobs(self, make_job: MakeJob) -> None:
        self._make_job = make_job

    def make(self) -> Any:
        return load_plugin("exporters", f"recipe:{self.tool}")()

    def quantizer(self) -> Integer:
        return Integer(Integer.Options(bits=(4, 8), group_size=(32,)))

    def job(self, has_adapter: bool) -> ExportJob:
        return self._make_job(TIED, self.quantizer())


class TestAutoRound(_Conformance):
    tool = "auto-round"


class TestLlamaQuantize(_Conformance):
    tool = "llama-quantize"


# From a study and back


def test_a_study_exports_a_recipe_and_another_starts_from_it(
    wide_llama_folder: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[n:] + WORDS[:n]) for n in range(40)))
    yaml = tmp_path / "study.yaml"
    study = {
        "name": "small",
        "model": {"name": str(wide_llama_folder)},
        "task": {"name": "causal-lm", "train": str(text), "validation": str(text), "length": 32},
        "quantizer": {"name": "integer", "bits": [2, 4, 8], "group_size": [32]},
        "trainer": {"name": "ptq", "fine_tune": False},
        "space": {"tied": "fused", "fixed": {FLOAT: {"bits": 8, "group_size": 32}}},
        "search": {"rounds": 1, "initial": 3, "candidates": 0, "average_bits": [2.6, 8.0]},
    }
    yaml.write_text(dump_yaml(study))
    done = command_here("run", yaml, "--out", tmp_path / "run")
    assert done.code == 0, done.errors
    again = command_here("run", yaml, "--out", tmp_path / "run")  # Loads neither model nor data.
    assert (again.code, again.errors) == (0, ""), again.errors
    export = ("export", tmp_path / "run", "--bits", "5", "--format", "recipe:auto-round")
    dry = command_here(*export, "--dry-run")
    assert dry.code == 0, dry.errors
    done = command_here(*export, "--to", tmp_path / "recipe")
    assert done.code == 0, done.errors
    facts = json.loads((tmp_path / "recipe" / "qsearch.json").read_text())
    assert (facts["format"], facts["weight_file_bytes"]) == ("recipe:auto-round", 0)
    card = (tmp_path / "recipe" / "README.md").read_text()
    assert "| average bits of the quantized weights | " in card
    assert "weight files" not in card
    layer_config = json.loads((tmp_path / "recipe" / "layer_config.json").read_text())
    assert layer_config[f"model.{FLOAT}"]["bits"] == 8
    recipe = ("--from-recipe", tmp_path / "recipe" / "layer_config.json")
    again = command_here("run", yaml, "--out", tmp_path / "again", *recipe, "--set", "seed=5")
    assert again.code == 0, again.errors
    trials = [read_study(tmp_path / name).trials for name in ("run", "again")]
    picked = trials[0].set_index("trial").loc[facts["trial"]]
    same = trials[1][trials[1]["configuration"] == picked["configuration"]]
    assert set(same["method"]) <= {"recipe", picked["method"]}
    assert len(same) == 1
