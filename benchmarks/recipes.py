"""Recipes, run by the tools that they are for: what they make of each layer, against the recipe.

Each tool is installed, in the version that the recipes are for, into a folder of its own next to
this environment, without its dependencies: PyTorch and transformers are this environment's. One
that cannot be installed or imported is recorded with the reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from qsearch_coalora.recipes.schemes import IntegerScheme, ggml_type, integer_scheme

from benchmarks.recipe_model import write_model
from benchmarks.recording import RESULTS, Benchmark, parts_to_measure
from qsearch.plugins.capabilities import SupportsExport
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.plugins.formats import recipe_formats
from qsearch.plugins.recipes import RecipeTarget, RecipeText
from qsearch.plugins.registry import load_plugin
from qsearch.space.configuration import Configuration
from qsearch.spec.study_spec import StudySpec

FOLDER = Path(sys.prefix) / "recipes"
FLOAT = "layers.1.mlp.down_proj"
"""A layer that the recipes leave in float."""

_LAYERS = ["layers.0.*", "layers.1.self_attn.*", "layers.1.mlp.gate_proj", "layers.1.mlp.up_proj"]
_BOTH = ["symmetric", "asymmetric"]


@dataclass(frozen=True)
class Tool:
    """A tool: what pip installs of it, and the quantizer of a recipe that tries most of it."""

    requirements: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: {"scheme": _BOTH})
    quantizer: str = "integer"
    hidden: int = 128
    """Size of the model's hidden states."""
    tied: str = "fused"
    """Layers that have one choice: those that engines fuse, or none."""


TOOLS = {
    "auto-round": Tool(
        ("auto-round==0.16.1", "py-cpuinfo==9.0.0"),
        {"bits": [2, 3, 4], "scheme": _BOTH},
    ),
    "gptqmodel": Tool(
        (
            *("gptqmodel==7.7.0", "pypcre==0.6.4", "tokenicer==0.0.14", "device-smi==0.5.7"),
            *("logbar==0.4.15", "defuser==0.0.28", "threadpoolctl==3.8.0"),
        ),
    ),
    "llama-quantize": Tool(options={}, quantizer="gguf", hidden=256, tied="none"),
    "llm-compressor": Tool(
        (
            *("llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "auto-round==0.15.1"),
            *("loguru==0.7.3", "py-cpuinfo==9.0.0", "nvidia-ml-py==13.615.71"),
        ),
    ),
    "modelopt": Tool(
        (
            *("nvidia-modelopt==0.47.0", "omegaconf==2.4.0", "pulp==3.3.2"),
            *("nvidia-ml-py==13.615.71", "antlr4-python3-runtime==4.9.3"),
        ),
        {"scheme": "symmetric"},
    ),
}
"""By the name of the format, without ``recipe:``."""


def main() -> None:
    """Run the tools that are named, or all; rows of the others stay as they are recorded."""
    names = parts_to_measure(__doc__, TOOLS)
    benchmark = Benchmark("recipes")
    for row in _recorded():
        if row["name"] not in names:
            benchmark.row(**row)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            hidden, model = TOOLS[name].hidden, Path(folder) / f"{name}-model"
            model.mkdir()
            write_model(model, hidden, 2 * hidden)
            measure(name, model, Path(folder) / name, benchmark)
    benchmark.rows.sort(key=lambda row: str(row["name"]))
    ran = [row for row in benchmark.rows if row["ran"]]
    wrong = sum(row["wrong_layers"] for row in ran)
    benchmark.claim("tools that ran, of those with recipes", len(ran), len(TOOLS), "higher")
    what = "layers whose type, or bits, group and symmetry, are not the recipe's"
    benchmark.claim(what, wrong, 0, "lower")
    unread = sum(not row["read_back"] for row in benchmark.rows)
    benchmark.claim("recipes that are not read back as they were written", unread, 0, "lower")
    benchmark.write()


def _recorded() -> list[dict[str, Any]]:
    path = RESULTS / "recipes.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    return rows


def measure(name: str, model: Path, folder: Path, benchmark: Benchmark) -> None:
    """Write a recipe, have its tool run it, and record what it made of the layers."""
    components = _components(name, model)
    configuration = _configuration(components)
    recipe, out = folder / "recipe", folder / "out"
    for made in (recipe, out):
        made.mkdir(parents=True)
    trainer = components.trainer
    assert isinstance(trainer, SupportsExport)
    job = trainer.export_job(configuration)
    exporter = load_plugin("exporters", f"recipe:{name}")()
    exporter.write(job, recipe)
    expected: dict[str, Any] = {}
    for layer, path in zip(job.layers, job.paths, strict=True):
        chosen = configuration[layer.name]
        if name == "llama-quantize":
            expected[_gguf_name(path)] = ggml_type(job.quantizer, layer.shape, chosen)
        else:
            scheme = integer_scheme(job.quantizer, layer.shape, chosen)
            assert scheme is not None
            expected[path] = _fields(scheme)
    tool = getattr(exporter, "tool", "llama.cpp b11739")
    row: dict[str, Any] = {"name": name, "tool": tool, "layers": len(expected)}
    row["read_back"] = _read_back(f"recipe:{name}", recipe, components) == configuration
    start = time.monotonic()
    environment, reason = install(name)
    if not reason:
        found, reason = _run(name, environment, model, recipe, out)
    if reason:
        benchmark.row(**row, ran=False, reason=reason)
        return
    floats = {path for path in found if path not in expected and _is_layer(path, found[path])}
    wrong = {path for path, one in expected.items() if found.get(path) != one} | floats
    for path in sorted(wrong):
        print(f"  {path}: expected {expected.get(path)}, found {found.get(path)}", flush=True)
    seconds = round(time.monotonic() - start, 1)
    benchmark.row(**row, ran=True, wrong_layers=len(wrong), seconds=seconds, reason=None)


def _is_layer(path: str, found: Any) -> bool:
    """Return whether something that no recipe quantizes has been quantized."""
    return not isinstance(found, str) or found not in ("BF16", "F16", "F32")


def install(name: str) -> tuple[dict[str, str], str]:
    """Install a tool; return the environment of its process, and why it cannot be installed."""
    target, tool = FOLDER / name, TOOLS[name]
    done = target / "installed"
    requirements = "\n".join(tool.requirements)
    if tool.requirements and not (done.is_file() and done.read_text() == requirements):
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-compile", "--upgrade", "--target", str(target)),
            *tool.requirements,
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            return {}, f"pip: {_last_line(ended.stderr)}"
        done.write_text(requirements)
    root = Path(__file__).parent.parent
    paths = os.pathsep.join([str(target), str(root)])
    own = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "GPTQMODEL_CPU_WORKERS": "2",  # It needs two, and takes half of the cores.
    }
    return {**os.environ, **own, "PYTHONPATH": paths}, ""


def _run(
    name: str, environment: Mapping[str, str], model: Path, recipe: Path, out: Path
) -> tuple[dict[str, Any], str]:
    module = f"benchmarks.recipe_tools.{name.replace('-', '_')}"
    command = [sys.executable, "-m", module, *map(str, (model, recipe, out))]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=dict(environment)
    )
    if ended.returncode:
        return {}, _last_line(ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1]), ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1])[:300] if lines else "it says nothing"


def _components(name: str, model: Path) -> StudyComponents:
    """Return the components of a study without training."""
    text = str(model / "text.txt")
    values = {
        "name": name,
        "model": {"name": str(model), "layers": _LAYERS},
        "task": {"name": "causal-lm", "train": text, "validation": text, "length": 32},
        "quantizer": {"name": TOOLS[name].quantizer, **TOOLS[name].options},
        "trainer": {"name": "ptq"},
        "space": {"tied": TOOLS[name].tied},
    }
    return build_components(StudySpec.model_validate(values))


def _configuration(components: StudyComponents) -> Configuration:
    """Return a random configuration with as many different choices as there can be."""
    space, generator = components.space, np.random.default_rng(0)
    order = generator.permutation(space.choices.size)
    return space.decode(np.resize(order, len(space.groups)))


def _read_back(format: str, recipe: Path, components: StudyComponents) -> Configuration:
    """Return what a study reads of a recipe."""
    (path,) = (path for path in recipe.iterdir() if path.name != "README.md")
    target = RecipeTarget(components.spec.model, components.space.layers, components.quantizer)
    text = RecipeText(path.read_text(encoding="utf-8"))
    reader = recipe_formats()[format]
    return Configuration(reader.read(text, target)) if reader.reads(text) else Configuration({})


def _fields(scheme: IntegerScheme) -> dict[str, Any]:
    return {
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "symmetric": scheme.symmetric,
    }


def _gguf_name(path: str) -> str:
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    return f"{names.get_name(path)}.weight"


if __name__ == "__main__":
    main()
