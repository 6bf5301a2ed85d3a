"""The kit for exporters: a right one passes, and each check fails on one with a fault for it."""

import itertools

import pytest
import torch
from safetensors.torch import save, save_file

from qsearch.testing import ExporterConformance
from tests.engine.fixtures.qsearch_fake import FakeQuantizer
from tests.engine.testing.faults import assert_found, checks, each, replaced

numbers = itertools.count()


class Whole:
    """Writes codes and scales, factors and the rest of the model."""

    description = "codes, factors and the rest"
    trainers = None
    quantizers = ("fake",)
    weight_files = (".safetensors",)

    def write(self, job, directory):
        self.save(self.tensors(job), directory)

    def weight_bytes(self, job):
        return {"weights.safetensors": len(save(self.tensors(job)))}

    def tensors(self, job):
        tensors = job.state()
        for position, path in enumerate(job.paths):
            del tensors[f"{path}.weight"]
            codes = job.quantized(position).tensors
            tensors |= {f"{path}.{name}": tensor for name, tensor in codes.items()}
        for path, (A, B) in zip(job.paths, job.factors(), strict=False):
            tensors |= {f"{path}.A": A, f"{path}.B": B}
        return self.stored(tensors, job.storage.dtype)

    def stored(self, tensors, dtype):
        floats = (name for name, tensor in tensors.items() if tensor.dtype == torch.float32)
        return tensors | {name: tensors[name].to(dtype) for name in floats}

    def save(self, tensors, directory):
        save_file(tensors, directory / "weights.safetensors")


def other(**changes):
    return replaced(Whole, **changes)


def saving(change):
    """An exporter that writes other tensors, or elsewhere."""
    return other(save=lambda _, tensors, directory: change(tensors, directory))


def in_place(self, job, directory):
    job.state()["head.bias"].add_(1)
    Whole.write(self, job, directory)


def without_factors(self, job, directory):
    self.save(job.state(), directory)


def at_random(tensors, directory):
    save_file({"weight": torch.full((2,), float(next(numbers)))}, directory / "weight.safetensors")


FAULTS = {
    "it_says_what_it_is_for": {
        "description": other(description=" "),
        "one line": other(description="a\nb"),
        "None or names: 'coa-lora'": other(trainers="coa-lora"),
        "weight_files": other(weight_files=("safetensors",)),
        "for version 1 of qsearch": other(contract=1),
    },
    "it_writes_weights_and_no_pickles": {
        "no files": saving(lambda *_: None),
        "pickles": saving(lambda tensors, out: torch.save(tensors, out / "weights.safetensors")),
        "files next to the folder": saving(
            lambda tensors, out: save_file(tensors, out.parent / "weights.safetensors")
        ),
        "weight files": saving(lambda tensors, out: save_file(tensors, out / "weights")),
    },
    "an_adapter_is_written": {"adapter": other(write=without_factors)},
    "equal_jobs_give_equal_files": {
        "files that differ": saving(at_random),
        "names of files": saving(
            lambda tensors, out: save_file(tensors, out / f"{next(numbers)}.safetensors")
        ),
    },
    "it_stores_the_type_that_the_job_says": {
        "storage: as many bytes in 16 bits": other(stored=lambda _, tensors, dtype: tensors)
    },
    "a_dry_run_says_what_is_written": {
        "bytes of a dry run": other(weight_bytes=lambda _, job: {"weights.safetensors": 1})
    },
    "the_job_stays_as_it_was": {"tensors of the model: 'head.bias'": other(write=in_place)},
}


class Kit(ExporterConformance):
    plugin = Whole

    def make(self):
        return self.plugin()

    def quantizer(self):
        return FakeQuantizer(FakeQuantizer.Options())


class TestRightExporter(Kit):
    pass


@each(FAULTS)
def test_an_exporter_with_a_fault_fails_the_check_for_it(check, says, plugin, tmp_path):
    assert_found(replaced(Kit, plugin=plugin)(), check, says, tmp_path)


def test_every_check_has_an_exporter_that_fails_it():
    assert set(FAULTS) == checks(ExporterConformance)


@pytest.mark.parametrize("method", ["make", "quantizer"])
def test_a_kit_without_a_plugin_says_what_it_needs(method):
    with pytest.raises(NotImplementedError, match=f"ExporterConformance needs a method {method}"):
        getattr(ExporterConformance(), method)()
