"""One round's training, step by step, that can continue from a saved step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsearch.errors import QsearchError
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Progress, Scores, Task, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.settings.device import autocast, parse_device, uses_bfloat16
from qsearch_coalora.settings.options import TrainingOptions
from qsearch_coalora.tasks.batching import examples_in
from qsearch_coalora.training.early_stopping import HeldOutLoss
from qsearch_coalora.training.evaluation import score
from qsearch_coalora.training.sampling import BatchStream, SetSampler
from qsearch_coalora.training.schedule import rate_share

KEEP_SECONDS = 60.0
"""After how long an unfinished training is saved, whatever its number of steps."""


class DivergedError(QsearchError):
    """The training loss, or its gradient, is no longer finite."""


@dataclass(frozen=True)
class RoundPlan:
    """What a round trains on.

    Args:
        round: Number of the round, from 1.
        configurations: The set.
        sampler: Draws positions in the set.
        batches: Training batches.
        dropout_seed: Seed of the model's own randomness.
        pieces: Configurations that share the examples of a batch.
        held_out: Says when to stop early, if at all.
    """

    round: int
    configurations: Sequence[Configuration]
    sampler: SetSampler
    batches: BatchStream
    dropout_seed: int
    pieces: int
    held_out: HeldOutLoss | None


class TrainingLoop:
    """Trains an adapted model on a round's plan with AdamW, from its tensors as they are."""

    def __init__(
        self, adapted: AdaptedModel, task: Task, options: TrainingOptions, plan: RoundPlan
    ) -> None:
        self._adapted = adapted
        self._task = task
        self._options = options
        self._plan = plan
        self._total = options.round_steps(plan.round)
        first = plan.round == 1
        self._adjusts_from = int(adapted.shape.theta_start * self._total) if first else 0
        adapted.weights.expect(plan.configurations, adapted.shape.fixed_rank)
        groups = adapted.parameter_groups()
        self._rates = [group["lr"] * options.rate_scale(plan.round) for group in groups]
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=True)
        self._device = parse_device(options.device)
        self._bfloat16 = uses_bfloat16(options.precision, self._device)
        self._losses: list[float] = []
        self._seconds = self._step_seconds = self._switch_seconds = 0.0
        self._hits = self._misses = 0

    def run(
        self, progress: Progress | None = None, keep: Callable[[TrainerState], None] | None = None
    ) -> TrainReport:
        """Train to the end of the round.

        Args:
            progress: Called after each step.
            keep: Called with the state after every ``checkpoint_steps`` steps, and where
                :data:`KEEP_SECONDS` have passed since; not at the end.

        Raises:
            DivergedError: If the loss or its gradient is no longer finite; the adapter in memory
                must not be used then.
        """
        adapted, held_out = self._adapted, self._plan.held_out
        adapted.peft_model.train()
        kept = time.monotonic()
        try:
            with torch.random.fork_rng():
                if self._losses:
                    self._restore_randomness()
                else:
                    torch.manual_seed(self._plan.dropout_seed)
                if not self._losses:
                    self._look_at_held_out()
                while len(self._losses) < self._total and not (held_out and held_out.stops):
                    started = time.perf_counter()
                    self._step()
                    self._step_seconds += time.perf_counter() - started
                    self._look_at_held_out()
                    done = len(self._losses)
                    if progress is not None:
                        progress(done, self._total, self._losses[-1])
                    self._seconds += time.perf_counter() - started
                    due = done % self._options.checkpoint_steps == 0
                    if keep is None or done == self._total:
                        continue
                    if due or time.monotonic() - kept > KEEP_SECONDS:
                        keep(self.state())
                        kept = time.monotonic()
                if held_out is not None:
                    held_out.take_best(adapted)
        finally:
            adapted.projections.clear()
            self._optimizer.zero_grad()
        return self._report()

    def _look_at_held_out(self) -> None:
        """Measure the held-out loss if it is time: from when θ has joined, or from the start."""
        held_out, done = self._plan.held_out, len(self._losses)
        if held_out is None or done < self._adjusts_from:
            return
        if (done - self._adjusts_from) % held_out.every == 0 or done == self._total:
            held_out.look(self._adapted)

    def _step(self) -> None:
        """Take one optimizer step."""
        options, plan = self._options, self._plan
        step = len(self._losses)
        share = rate_share(options.schedule, step, self._total, options.warmup_steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        batches = [next(plan.batches) for _ in range(options.accumulation_steps)]
        examples = sum(map(examples_in, batches))
        loss = 0.0
        for batch in batches:
            # The last batch of a pass may be smaller; each example counts alike.
            loss += self._accumulate_gradients(batch, examples_in(batch) / examples)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, options.max_grad_norm)
        self._require_finite("loss", loss, step)
        self._require_finite("gradient norm", norm.item(), step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._losses.append(loss)

    def _accumulate_gradients(self, batch: Mapping[str, Tensor], weight: float) -> float:
        """Add the gradient of a batch's mean loss, its examples shared among configurations.

        Returns:
            The loss; both are multiplied by the weight.
        """
        plan, adapted = self._plan, self._adapted
        size = examples_in(batch)
        pieces = min(plan.pieces, size)
        total = 0.0
        for offset in range(pieces):
            piece = {name: tensor[offset::pieces] for name, tensor in batch.items()}
            position = next(plan.sampler)
            configuration = plan.configurations[position]
            self._switch(configuration)
            adjusts = len(self._losses) >= self._adjusts_from
            adapted.projections.set(adapted.adjustments(configuration) if adjusts else None)
            scores = self._score(piece)
            loss = (scores.losses * scores.weights).sum() / scores.weights.sum()
            share = weight * (len(range(offset, size, pieces)) / size)
            # Backward before the next switch: the weights it differentiates are replaced then.
            (loss * share).backward()  # type: ignore[no-untyped-call]
            plan.sampler.note(position, loss.item())
            total += loss.item() * share
        return total

    def _switch(self, configuration: Configuration) -> None:
        """Put a configuration's weights into the model; count time and look-ups."""
        started, before = time.perf_counter(), self._adapted.cache.counts
        self._adapted.activate(configuration)
        after = self._adapted.cache.counts
        self._hits += after.hits - before.hits
        self._misses += after.misses - before.misses
        self._switch_seconds += time.perf_counter() - started

    def _score(self, batch: Mapping[str, Tensor]) -> Scores:
        with autocast(self._bfloat16, self._device):
            logits = self._adapted.logits(batch)
        return score(self._task, logits, batch)

    def _require_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            options, round = self._options, self._plan.round
            rate = options.learning_rate * options.rate_scale(round)
            raise DivergedError(
                f"round {round}: the training {what} became {value} at step {step + 1} of"
                f" {self._total}; lower trainer.learning_rate (it is {rate:g} in this round) or"
                " trainer.theta_learning_rate, and begin the study in another directory"
            )

    def _report(self) -> TrainReport:
        looked_up = self._hits + self._misses
        details = {
            # One configuration alone is never switched, which is not a miss.
            "cache_hit_rate": self._hits / looked_up if looked_up else 1.0,
            "cache_mebibytes": self._adapted.cache.counts.nbytes / 2**20,
            "cache_mebibytes_allowed": float(self._options.cache_mebibytes),
            "switch_seconds": self._switch_seconds,
            "switch_share": self._switch_seconds / (self._step_seconds or 1.0),
            "bfloat16": float(self._bfloat16),
        }
        if self._plan.held_out is not None:
            details["held_out_loss"] = self._plan.held_out.best_loss
        return TrainReport(len(self._losses), self._seconds, tuple(self._losses), details)

    def state(self) -> TrainerState:
        """Return what :meth:`restore` needs to continue from here."""
        plan = self._plan
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self._adapted.tensors(),
            "sampler": plan.sampler.state(),
            "batches": plan.batches.state(),
            "random": self._randomness(),
            "held_out": {} if plan.held_out is None else plan.held_out.state(),
        }
        for position, values in self._optimizer.state_dict()["state"].items():
            parts[f"optimizer-{position}"] = values
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().clone()
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        tensors["losses"] = torch.tensor(self._losses, dtype=torch.float64)
        metadata = {
            "seconds": self._seconds,
            "step_seconds": self._step_seconds,
            "switch_seconds": self._switch_seconds,
            "hits": self._hits,
            "misses": self._misses,
        }
        return TrainerState(tensors, metadata)

    def restore(self, state: TrainerState) -> None:
        """Continue from a saved state of the same plan."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.tensors.items():
            part, _, inner = name.partition(".")
            parts.setdefault(part, {})[inner] = tensor
        self._adapted.load_tensors(parts["model"])
        self._plan.sampler.restore(parts["sampler"])
        self._plan.batches.restore(parts["batches"])
        if self._plan.held_out is not None:
            self._plan.held_out.restore(parts["held_out"])
        own = self._optimizer.state_dict()
        saved: dict[int, Any] = {
            int(part.removeprefix("optimizer-")): values
            for part, values in parts.items()
            if part.startswith("optimizer-")
        }
        self._optimizer.load_state_dict({"state": saved, "param_groups": own["param_groups"]})
        self._saved_randomness = parts["random"]
        self._losses = state.tensors["losses"].tolist()
        self._seconds = float(state.metadata["seconds"])
        self._step_seconds = float(state.metadata["step_seconds"])
        self._switch_seconds = float(state.metadata["switch_seconds"])
        self._hits, self._misses = int(state.metadata["hits"]), int(state.metadata["misses"])

    def _randomness(self) -> dict[str, Tensor]:
        found = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            found["cuda"] = torch.cuda.get_rng_state(self._device)
        return found

    def _restore_randomness(self) -> None:
        torch.set_rng_state(self._saved_randomness["cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._saved_randomness["cuda"], self._device)
