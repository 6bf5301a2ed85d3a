"""Adapters that were trained for one configuration each, and their form in a saved state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from torch import Tensor

from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration

Adapter = Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainedAdapter:
    """What a configuration's training came to; the report holds the making of its start too."""

    adapter: Adapter
    report: TrainReport

    def counted_elsewhere(self) -> TrainedAdapter:
        """Return it without its seconds, which another report holds already."""
        return replace(self, report=replace(self.report, seconds=0.0))


def with_trained(
    state: TrainerState, trained: Mapping[Configuration, TrainedAdapter], **metadata: str
) -> TrainerState:
    """Return a state with trained adapters next to what it holds."""
    packed = {
        f"trained-{number}.{name}": tensor
        for number, result in enumerate(trained.values())
        for name, tensor in result.adapter.items()
    }
    reports = [
        {"configuration": configuration.to_json(), **asdict(result.report)}
        for configuration, result in trained.items()
    ]
    return TrainerState(
        {**state.tensors, **packed}, {**state.metadata, "trained": reports, **metadata}
    )


def trained_in(state: TrainerState) -> dict[Configuration, TrainedAdapter]:
    """Return the trained adapters that a state holds."""
    results: dict[Configuration, TrainedAdapter] = {}
    for number, saved in enumerate(state.metadata["trained"]):
        prefix = f"trained-{number}."
        adapter = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.tensors.items()
            if name.startswith(prefix)
        }
        fields = {name: value for name, value in saved.items() if name != "configuration"}
        report = TrainReport(**{**fields, "losses": tuple(fields["losses"])})
        results[Configuration.from_json(saved["configuration"])] = TrainedAdapter(adapter, report)
    return results


def joined_report(reports: Sequence[TrainReport]) -> TrainReport:
    """Return the report of several trainings: sums, and the mean of each detail."""
    names = dict.fromkeys(name for report in reports for name in report.details)
    means = {
        name: fmean(report.details[name] for report in reports if name in report.details)
        for name in names
    }
    return TrainReport(
        steps=sum(report.steps for report in reports),
        seconds=sum(report.seconds for report in reports),
        losses=tuple(loss for report in reports for loss in report.losses),
        details={"trained_configurations": float(len(reports)), **means},
    )
