"""Packed exports load with the base dependencies alone, and compute the same."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from packaging.requirements import Requirement  # noqa: E402
from qsearch_quantizers.packed.writing import PackedExport, QuantizedLayer  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from qsearch.plugins.registry import load_plugin  # noqa: E402
from tests.coalora.conftest import small_config  # noqa: E402

ROOT = Path(__file__).parents[3]
OWN = {"qsearch": ROOT / "qsearch", "qsearch_quantizers": ROOT / "adapters/qsearch_quantizers"}
QUANTIZERS = {
    "normal-float": {},
    "integer": {"scheme": ["symmetric", "asymmetric"]},
    "hqq": {},
    "torchao": {},
    "compressed-tensors": {},
    "bitsandbytes": {},
    "gguf": {"importance": "none"},
}
LIBRARIES = {"bitsandbytes": "bitsandbytes", "gguf": "llama-cpp-py-sync"}
"""What decodes the weights of these quantizers."""
COMMAND_LINE = "typer"
"""Of transformers; its models do without, and without pydantic, which it needs."""

LOAD = """
import sys
from pathlib import Path

import torch
import qsearch_quantizers
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

torch.set_num_threads(1)
libraries, target, *folders = sys.argv[1:]
logits = {}
for folder in folders:
    if Path(folder).name in ("bitsandbytes", "gguf"):
        try:
            AutoModelForSequenceClassification.from_pretrained(folder)(torch.arange(12).view(2, 6))
        except Exception as error:
            print(error)
        sys.path.append(libraries)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        logits[Path(folder).name] = model(torch.arange(12).view(2, 6)).logits
    sys.path[:] = [path for path in sys.path if path != libraries]
save_file(logits, target)
"""


def distributions(requirements):
    """Distributions that are installed for some requirements, with what these need."""
    found, waiting = {}, [Requirement(text) for text in requirements]
    while waiting:
        needed = waiting.pop()
        name = re.sub(r"[-_.]+", "-", needed.name).lower()
        if name in {*found, COMMAND_LINE} or (
            needed.marker and not needed.marker.evaluate({"extra": ""})
        ):
            continue
        found[name] = metadata.distribution(name)
        waiting += [Requirement(text) for text in found[name].requires or ()]
    return found


def link(folder, packages):
    """Make a folder of packages, such as site-packages, with those of some distributions."""
    folder.mkdir()
    for package in packages.values():
        for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (folder / name).exists():
                (folder / name).symlink_to(package.locate_file(name))
    return folder


def write(folder, quantizer, options):
    torch.manual_seed(0)
    config = small_config("Bert", hidden_size=64, intermediate_size=256)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    plugin = load_plugin("quantizers", quantizer)
    made = plugin(plugin.Options.model_validate(options))
    layers = [
        QuantizedLayer(name, made.quantize(module.weight, layer))
        for place, (name, module) in enumerate(model.named_modules())
        if isinstance(module, torch.nn.Linear) and ".layer." in name
        for layer in [made.choices().layer_configuration(place * 37 % made.choices().size)]
    ]
    configuration = {layer.name: layer.weight.configuration for layer in layers}
    export = PackedExport(
        model, model.state_dict(), made, options, configuration, 0, torch.bfloat16
    )
    export.write(layers, folder)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return loaded(torch.arange(12).view(2, 6)).logits


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The packages of an environment with the base dependencies and ours."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = distributions(project["dependencies"])
    assert not {"ax-platform", "botorch", "pandas", "plotly", "pydantic", "scipy"} & {*packages}
    folder = link(tmp_path_factory.mktemp("environment") / "base", packages)
    for name, source in OWN.items():
        (folder / name).symlink_to(source)
    return folder


def run_python(base, *arguments):
    """Run Python with these packages alone."""
    environment = {"PYTHONPATH": str(base), "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-SP", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_packed_exports_of_all_quantizers_load_with_the_base_dependencies_alone(base, tmp_path):
    libraries = link(tmp_path / "libraries", distributions(LIBRARIES.values()))
    expected = {name: write(tmp_path / name, name, options) for name, options in QUANTIZERS.items()}
    target = tmp_path / "logits.safetensors"
    done = run_python(base, "-c", LOAD, libraries, target, *(tmp_path / name for name in expected))
    assert done.returncode == 0, done.stderr
    for name in LIBRARIES:
        assert f"pip install 'qsearch-llm[{name}]'" in done.stdout
    logits = load_file(target)
    assert logits.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(logits[name], values), name


def test_the_command_line_says_what_it_needs_there(base):
    done = run_python(base, "-m", "qsearch", "check", "study.yaml")
    assert done.returncode == 2
    message = "qsearch: a search needs more packages: pip install 'qsearch-llm[llm]'"
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
