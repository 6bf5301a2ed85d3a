"""A trainer that is right, for the kit that checks trainers."""

import zlib

import numpy as np
import torch

from qsearch.errors import InputError
from qsearch.plugins.capabilities import NO_CHECKPOINT
from qsearch.plugins.evaluation import Evaluation, MetricValue, TrainReport
from qsearch.plugins.protocols import Requirements, TrainerState
from qsearch.space.layers import LayerSpec
from qsearch.testing.exporter.job import SampleJob
from tests.engine.fixtures.qsearch_fake import FakeQuantizer

STEPS = 3
QUANTIZER = FakeQuantizer(FakeQuantizer.Options(bits=(2, 3, 4)))


class Tiny:
    """Moves a vector at each step; its square and the layers' errors are the loss."""

    job_type = SampleJob
    full_precision = Evaluation(1.0, 0.01, {"accuracy": MetricValue(0.9, 0.001)}, 0.1)
    offset = 1.0
    trainings = 0
    """Rounds that this object was trained for, which nothing saves."""

    def __init__(self, size=4):
        self.size = size
        self.vector = torch.zeros(size)

    def layers(self):
        return [LayerSpec(f"block.{index}.query", "query", index, (8, 32)) for index in range(3)]

    def requirements(self):
        return Requirements(3 * 8 * 32, 2**20, (1e6, 1e6), 1e5)

    def train(self, configurations, round, progress=None):
        return self.steps(configurations, round, progress, NO_CHECKPOINT)

    def train_resumably(self, *arguments):
        return self.steps(*arguments)

    def steps(self, configurations, round, progress, checkpoint):
        self.check(configurations)
        self.trainings += 1
        trains = "".join(configuration.to_json() for configuration in configurations) + str(round)
        saved, losses = checkpoint.load(), []
        if saved is not None and self.resumes(saved.metadata, trains):
            losses = self.restored(saved)
        moves = torch.randn(STEPS, self.size, generator=self.generator(trains))
        for step in range(len(losses), STEPS):
            self.vector = self.vector + 0.1 * moves[step]
            losses.append(float(self.vector.square().sum()))
            if progress is not None:
                progress(step + 1, STEPS, losses[-1])
            state = TrainerState({"vector": self.vector}, {"trains": trains, "losses": losses})
            if step + 1 < STEPS:
                checkpoint.save(state)
        return TrainReport(STEPS, 0.001, tuple(losses))

    def check(self, configurations):
        if not configurations:
            raise InputError("the set is empty")

    def generator(self, trains):
        return torch.Generator().manual_seed(zlib.crc32(trains.encode()))

    def resumes(self, metadata, trains):
        return metadata["trains"] == trains

    def restored(self, saved):
        self.vector = saved.tensors["vector"]
        return list(saved.metadata["losses"])

    def evaluate(self, configurations, split):
        return [self.evaluation(configuration) for configuration in configurations]

    def evaluation(self, configuration):
        errors = sum(self.error(layer) for layer in configuration.values())
        loss = self.offset + errors + float(self.vector.square().sum())
        return Evaluation(loss, 0.01, {"accuracy": MetricValue(1 / loss, 0.001)}, 0.1)

    def evaluate_full_precision(self, split):
        return self.full_precision

    def error(self, layer):
        return 4.0 ** (1 - layer["bits"]) * (layer["group_size"] / 32) ** 0.25

    def quantization_error(self, layer_configurations):
        row = np.array([self.error(layer) for layer in layer_configurations])
        return np.stack([row * (1 + index / 10) for index in range(3)])

    def sensitivity(self, configurations, round):
        return float(self.vector.square().sum()) + np.arange(3.0)

    def state(self):
        return TrainerState({"vector": self.vector}, {"size": self.size})

    def load_state(self, state):
        if state.metadata["size"] != self.size:
            raise InputError(f"size was {state.metadata['size']}, is {self.size}")
        self.vector = state.tensors["vector"]

    def export_job(self, configuration):
        generator = torch.Generator().manual_seed(0)
        layers = {name: torch.nn.Linear(32, 8).requires_grad_(False) for name in "abc"}
        for layer in layers.values():
            torch.nn.init.normal_(layer.weight, 0.0, 0.02, generator)
            torch.nn.init.zeros_(layer.bias)
        module, specs = torch.nn.ModuleDict(layers), tuple(self.layers())
        return self.job_type(module, QUANTIZER, configuration, True, specs, tuple(layers))
