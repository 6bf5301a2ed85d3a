"""The wheel in an environment of its own, with quantizers of other packages.

Those are the example's and the documentation's.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest
from ruamel.yaml import YAML

from qsearch.spec.yaml_text import dump_yaml, read_yaml
from tests.end_to_end.conftest import ROOT, assert_searched_and_reported, command, run, run_new
from tests.end_to_end.tiny_study import write_tiny_study

EXAMPLE = ROOT / "examples" / "qsearch-ternary"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
KNOBS = ("planes", "group_size", "threshold")
SOURCES = {
    "qsearch": "qsearch",
    "qsearch_studies": "studies",
    **{
        init.parent.name: init.parent.relative_to(ROOT).as_posix()
        for folder in ("adapters", "reports")
        for init in (ROOT / folder).glob("*/__init__.py")
    },
}
"""The folder of each package in the checkout."""


@pytest.fixture(scope="module", autouse=True)
def _outside_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    # Building writes next to the source, so a copy is built, with all that must stay out.
    apart = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
    source = shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "qsearch", ignore=apart)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    run_new(build)
    return folder


PAGES = {
    "quantizer": {"qsearch_absmax.py", "test_absmax.py", "qsearch_per_row.py", "test_per_row.py"},
    "task": {"qsearch_regression.py", "test_regression.py"},
    "trainer": {"qsearch_rounding.py", "test_rounding.py"},
    "exporter": {"qsearch_npz.py", "qsearch_npz_integers.py", "test_npz.py"},
}
"""The files of each page docs/howto-….md, with a pyproject.toml."""


@pytest.fixture(scope="module")
def page_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages of the pages: each file is a block whose first line is its name."""
    folders = {}
    for name, files in PAGES.items():
        folders[name] = tmp_path_factory.mktemp(name)
        page = (ROOT / "docs" / f"howto-{name}.md").read_text(encoding="utf-8")
        blocks = re.findall(r"```\w+\n# (\S+\.(?:py|toml))\n(.*?)```", page, flags=re.DOTALL)
        assert {file for file, _ in blocks} == {"pyproject.toml", *files}
        for file, text in blocks:
            (folders[name] / file).write_text(text, encoding="utf-8")
    return folders


@pytest.fixture(scope="module")
def packages(
    distributions: Path, page_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An environment with the wheel and all packages, but the dependencies of this one.

    pip finds what they depend on, or fails.
    """
    environment = tmp_path_factory.mktemp("environment")
    python = str(environment / "bin" / "python")
    run_new([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages(environment) / "shared.pth").write_text("\n".join(shared))
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index"]
    (wheel,) = distributions.glob("*.whl")
    run_new([*install, "--no-deps", "--ignore-installed", str(wheel)])
    example = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "example")
    run_new([*install, "--no-build-isolation", str(example), *map(str, page_folders.values())])
    return environment


def site_packages(environment: Path) -> Path:
    (folder,) = environment.glob("lib/python*/site-packages")
    return folder


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with the example's quantizer."""
    return write_tiny_study(tmp_path_factory.mktemp("study"), "ternary", (1.8, 5.5))


def run_with(packages: Path, arguments: Sequence[str]) -> str:
    """Run a program of this Python by that of the environment and return what it printed."""
    return run([str(packages / "bin" / "python"), *arguments[1:]]).stdout


@pytest.fixture(scope="module")
def directory(packages: Path, study_file: Path) -> Path:
    """The study's directory, run to its end."""
    out = study_file.parent / "run"
    run_with(packages, command("run", study_file, "--out", out))
    return out


def files(folder: Path) -> set[str]:
    """All files of a folder but bytecode, relative to it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix() for path in paths}


def test_the_wheel_holds_all_files_of_the_packages_and_no_others(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    expected = {f"{p}/{file}" for p, folder in SOURCES.items() for file in files(ROOT / folder)}
    assert names - metadata == expected
    assert "qsearch/py.typed" in expected
    assert f"qsearch_llm-{VERSION}.dist-info/licenses/LICENSE" in metadata


def test_the_sdist_adds_what_builds_and_describes_them(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    expected = {f"{folder}/{file}" for folder in SOURCES.values() for file in files(ROOT / folder)}
    described = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "PKG-INFO"}
    built = {"pyproject.toml", "MANIFEST.in", "setup.cfg"}
    written = {name for name in names if name.startswith("qsearch_llm.egg-info/")}
    assert names - written == expected | described | built


def test_the_citation_names_the_version() -> None:
    assert YAML(typ="safe").load(ROOT / "CITATION.cff")["version"] == VERSION


def test_packages_that_depend_on_it_bring_no_other_distribution(packages: Path) -> None:
    names = {folder.name for folder in site_packages(packages).glob("*.dist-info")}
    plugins = ("ternary", "absmax", "regression", "rounding", "npz")
    own = {f"qsearch_llm-{VERSION}", *(f"qsearch_{plugin}-0.1.0" for plugin in plugins)}
    assert names == {f"{name}.dist-info" for name in own}


def test_all_its_packages_are_found_where_it_is_installed(packages: Path) -> None:
    script = (
        "import sys\nfrom importlib.util import find_spec\n"
        "for name in sys.argv[1:]: print(find_spec(name).origin)"
    )
    printed = run_new([str(packages / "bin" / "python"), "-c", script, *SOURCES]).stdout
    expected = [str(site_packages(packages) / name / "__init__.py") for name in SOURCES]
    assert printed.splitlines() == expected


def test_importing_it_imports_no_library_that_takes_seconds(packages: Path) -> None:
    heavy = "{'ax', 'numpy', 'pandas', 'torch'}"
    script = f"import qsearch, sys; print({heavy} & sys.modules.keys())"
    printed = run_new([str(packages / "bin" / "python"), "-c", script]).stdout
    assert printed == "set()\n"


def test_its_quickstart_validates(packages: Path, minilm: str) -> None:
    run_with(packages, command("init", "quickstart"))
    assert "36 quantizable" in run_with(packages, command("check", "quickstart.yaml"))


def test_plugins_names_the_packages_that_they_come_from(packages: Path) -> None:
    printed = run_new([str(packages / "bin" / "qsearch"), "plugins"]).stdout
    assert f"qsearch-llm {VERSION}" in printed
    for kind, name, package in (
        ("quantizer", "ternary", "ternary"),
        ("exporter", "ternary", "ternary"),
        ("quantizer", "absmax", "absmax"),
        ("task", "regression", "regression"),
        ("trainer", "rounding", "rounding"),
        ("exporter", "npz", "npz"),
    ):
        assert re.search(rf"{kind} +{name} .* qsearch-{package} 0\.1\.0", printed)


# Some checks are of what the example's quantizer, or this machine, has not.
@pytest.mark.parametrize(("package", "least"), [("ternary", 30), *((name, 5) for name in PAGES)])
def test_its_own_tests_pass(
    package: str, least: int, packages: Path, page_folders: dict[str, Path]
) -> None:
    tests = EXAMPLE / "tests" if package == "ternary" else page_folders[package]
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tests)]
    printed = run_with(packages, [sys.executable, "-m", "pytest", *options, str(tests)])
    passed = re.search(r"(\d+) passed", printed)
    assert passed
    assert int(passed[1]) > least


def test_space_is_made_of_its_knobs(packages: Path, study_file: Path) -> None:
    printed = run_with(packages, command("check", study_file))
    assert "36 variables in 12 groups" in printed  # 12 layers × 3 knobs
    assert "1.725 to 6.3 average" in printed  # 1·(8/5 + 16/128) to 3·(8/5 + 16/32)


def test_study_searches_its_knobs_and_reports_them(directory: Path) -> None:
    assert_searched_and_reported(directory, KNOBS)


def test_picked_configuration_exports_and_loads(
    packages: Path, directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed"
    run_with(
        packages, command("export", directory, "--bits", "4", "--to", out, "--format", "packed")
    )
    written = json.loads((out / "config.json").read_text())["quantization_config"]
    assert {tuple(layer) for layer in written["layers"].values()} == {KNOBS}
    script = (
        "import sys, torch, qsearch_quantizers\n"
        "from transformers import AutoModelForSequenceClassification\n"
        "model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])\n"
        "print(tuple(model(torch.tensor([[2, 5, 3]])).logits.shape))\n"
    )
    loaded = run_new([str(packages / "bin" / "python"), "-c", script, str(out)])
    assert "(1, 2)" in loaded.stdout


def test_its_own_format_holds_what_the_merged_model_computes(
    packages: Path, directory: Path, tmp_path: Path
) -> None:
    for format in ("ternary", "merged"):
        into = ["--to", tmp_path / format, "--format", format, "--dtype", "float32"]
        run_with(packages, command("export", directory, "--bits", "4", *into))
    card = (tmp_path / "ternary" / "README.md").read_text()
    assert "## Measured values" in card
    labels = json.loads((tmp_path / "ternary" / "ternary.json").read_text())["labels"]
    assert labels == ["0", "1"]
    script = (
        "import sys, pathlib, torch\n"
        "from qsearch_ternary.exporter import read_ternary\n"
        "from safetensors.torch import load_file\n"
        "merged = load_file(sys.argv[2])\n"
        "own = read_ternary(pathlib.Path(sys.argv[1]))\n"
        "assert own.keys() == merged.keys()\n"
        "for name in own: torch.testing.assert_close(own[name], merged[name])\n"
    )
    files = [str(tmp_path / "ternary"), str(tmp_path / "merged" / "model.safetensors")]
    run_new([str(packages / "bin" / "python"), "-c", script, *files])


def test_the_pages_quantizer_task_and_exporter_work_in_one_study(
    packages: Path, tmp_path: Path
) -> None:
    study = write_tiny_study(tmp_path, "per-row", (3.0, 8.0))
    for split in ("train", "validation"):
        table = tmp_path / f"{split}.tsv"
        table.write_text(table.read_text().removeprefix("text\tlabel\n"))
    task = {"name": "regression", "train": "./train.tsv", "validation": "./validation.tsv"}
    values = {**read_yaml(study), "task": {**task, "max_length": 8}}
    study.write_text(dump_yaml(values), encoding="utf-8")
    run_with(packages, command("run", study, "--out", tmp_path / "run"))
    into = ["--to", tmp_path / "out", "--format", "npz"]
    run_with(packages, command("export", tmp_path / "run", "--bits", "6", *into))
    facts = json.loads((tmp_path / "out" / "qsearch.json").read_text())
    assert next(iter(facts["metrics"])) == "mean_absolute_error"
    assert facts["weight_file_bytes"] == (tmp_path / "out" / "weights.npz").stat().st_size
