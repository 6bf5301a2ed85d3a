"""What this process computes with: versions of libraries, CPU, memory, threads, accelerators.

What cannot be found out is left out and does not stop a study.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch

from qsearch._distribution import DISTRIBUTION
from qsearch.plugins.registry import Group, installed_plugins
from qsearch.provenance.session import Machine
from qsearch.spec.sections import PluginSpec
from qsearch.spec.study_spec import StudySpec

_LIBRARIES = (
    *(DISTRIBUTION, "torch", "ax-platform", "botorch", "gpytorch", "linear_operator"),
    *("numpy", "scipy", "pandas", "safetensors"),
    *("transformers", "tokenizers", "peft", "accelerate", "datasets"),
    *("bitsandbytes", "hqq", "torchao", "llama-cpp-py-sync"),
)
"""What can change a result, where it is installed."""
_SECONDS = 10.0
_Value = TypeVar("_Value")


def find_versions(spec: StudySpec) -> dict[str, str]:
    """Return versions by name: Python, libraries, and the packages of a study's plugins."""
    versions = dict(_library_versions())
    sections: dict[Group, PluginSpec] = {
        "quantizers": spec.quantizer,
        "tasks": spec.task,
        "trainers": spec.trainer,
    }
    for group, section in sections.items():
        versions |= _known(partial(_brought_by, group, section.name)) or {}
    return versions


@cache
def _library_versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        version = _known(partial(metadata.version, name))
        if version is not None:
            versions[name] = version
    if torch.version.cuda:
        versions["cuda"] = str(torch.version.cuda)
    return versions


def _brought_by(group: Group, name: str) -> dict[str, str]:
    """Return the package of a plugin, which is named as ``name version``."""
    packages = [plugin.distribution for plugin in installed_plugins(group) if plugin.name == name]
    return dict(package.rsplit(" ", 1) for package in packages if " " in package)


def find_machine() -> Machine:
    """Return the hardware, and the threads that PyTorch computes with."""
    accelerators, driver = _known(_accelerators) or ((), None)
    return Machine(
        system=_known(platform.platform),
        processor=_known(_processor),
        instructions=_known(torch.backends.cpu.get_cpu_capability),
        cores=_known(_cores),
        memory_gib=_known(_memory_gib),
        threads=_known(torch.get_num_threads),
        accelerators=accelerators,
        driver=driver,
    )


def _known(find: Callable[[], _Value]) -> _Value | None:
    try:
        return find()
    except Exception:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _accelerators() -> tuple[tuple[str, ...], str | None]:
    """Return names of the accelerators and their driver."""
    nvidia = _known(_nvidia) if torch.cuda.device_count() else None
    if nvidia is not None:
        return nvidia
    if torch.accelerator.is_available():
        return (str(torch.accelerator.current_accelerator()),), None
    return (), None


def _nvidia() -> tuple[tuple[str, ...], str]:
    """Ask NVIDIA's own program; PyTorch would take memory of a GPU to tell its name."""
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
    )
    rows = [line.rsplit(", ", 1) for line in listed.stdout.splitlines()]
    return tuple(name for name, _ in rows), rows[0][1]
