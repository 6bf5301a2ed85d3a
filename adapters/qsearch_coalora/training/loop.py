"""One round's training, step by step, that can continue from a saved step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from qsearch.errors import QsearchError
from qsearch.plugins.capabilities import SupportsExampleWeights, TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Progress, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.settings.device import autocast, parse_device, uses_bfloat16
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.tasks.batching import examples_in
from qsearch_coalora.training.early_stopping import HeldOutLoss, spread_over
from qsearch_coalora.training.evaluation import held_out_loss
from qsearch_coalora.training.objective import Objective
from qsearch_coalora.training.sampling import SetSampler, pass_of, round_seeds
from qsearch_coalora.training.saved_state import digest, training_identity
from qsearch_coalora.training.schedule import rate_share
from qsearch_coalora.training.study_model import StudyModel

SAVE_SECONDS = 60.0
"""After how long a training is saved, whatever its number of steps."""


class DivergedError(QsearchError):
    """The training loss, or its gradient, is no longer finite."""


@clear_memory_errors()
def train_round(
    study: StudyModel,
    configurations: Sequence[Configuration],
    round: int,
    progress: Progress | None,
    checkpoint: TrainingCheckpoint,
) -> TrainReport:
    """Train on the expected loss over a set, from the saved step if there is one.

    What comes out is a function of state, set, seed and round: each round starts a fresh AdamW
    and a fresh learning-rate schedule.

    Raises:
        QsearchError: If the loss or its gradient is no longer finite, or memory runs out; the
            adapter in memory must not be used then.
    """
    trains = digest(list(configurations), round, training_identity(study))
    loop = TrainingLoop(study, configurations, round)
    saved = checkpoint.load()
    if saved is not None and saved.metadata.get("trains") == trains:
        loop.restore(saved)

    def save(state: TrainerState) -> None:
        checkpoint.save(TrainerState(state.tensors, {**state.metadata, "trains": trains}))

    return loop.run(progress, save)


class TrainingLoop:
    """Trains a study's adapter for a round on a set, with AdamW, from its tensors as they are.

    All random draws follow from the study's seed and the round.
    """

    def __init__(
        self, study: StudyModel, configurations: Sequence[Configuration], round: int
    ) -> None:
        options, adapted, seeds = study.options, study.adapted, round_seeds(study.seed, round)
        self._study = study
        self._options = options
        self._adapted = adapted
        self._configurations = configurations
        self._round = round
        self._total = options.round_steps(round)
        self._adjusts_from = int(adapted.shape.theta_start * self._total) if round == 1 else 0
        self._sampler = SetSampler(
            len(configurations),
            pass_of(options.set_sampling, lambda: study.average_bits(configurations)),
            torch.Generator().manual_seed(seeds.configurations),
        )
        self._batches = study.batches(torch.Generator().manual_seed(seeds.data))
        self._dropout_seed = seeds.dropout
        self._held_out: HeldOutLoss | None = None
        if options.early_stopping is not None:
            followed = spread_over(
                configurations, options.early_stopping.configurations, study.average_bits
            )
            loss_of = partial(held_out_loss, study)
            self._held_out = HeldOutLoss(options.early_stopping, followed, loss_of)
        self._objective = Objective(study)
        plain = [adapted.ranks.plain(configuration) for configuration in configurations]
        adapted.weights.expect(plain, adapted.residual.cached_rank)
        adapted.residual.open_entries(plain)
        groups = adapted.parameter_groups(plain)
        self._rates = [group["lr"] * options.rate_scale(round) for group in groups]
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=True)
        self._device = parse_device(options.device)
        self._bfloat16 = uses_bfloat16(options.precision, self._device)
        self._losses: list[float] = []
        self._counts = dict.fromkeys(
            ("seconds", "step_seconds", "switch_seconds", "hits", "misses"), 0.0
        )

    def run(self, progress: Progress | None, save: Callable[[TrainerState], None]) -> TrainReport:
        """Train to the end of the round.

        ``save`` is called with the state after every ``checkpoint_steps`` steps, and where
        :data:`SAVE_SECONDS` have passed since; not at the end.
        """
        adapted, held_out = self._adapted, self._held_out
        adapted.peft_model.train()
        saved = time.monotonic()
        try:
            with torch.random.fork_rng():
                if self._losses:
                    self._restore_randomness()
                else:
                    torch.manual_seed(self._dropout_seed)
                    self._look_at_held_out()
                while len(self._losses) < self._total and not (held_out and held_out.stops):
                    started = time.perf_counter()
                    self._step()
                    self._counts["step_seconds"] += time.perf_counter() - started
                    self._look_at_held_out()
                    done = len(self._losses)
                    if progress is not None:
                        progress(done, self._total, self._losses[-1])
                    self._counts["seconds"] += time.perf_counter() - started
                    due = done % self._options.checkpoint_steps == 0
                    due = due or time.monotonic() - saved > SAVE_SECONDS
                    if due and done < self._total:
                        save(self.state())
                        saved = time.monotonic()
                if held_out is not None:
                    held_out.take_best(adapted)
        finally:
            adapted.projections.clear()
            self._optimizer.zero_grad()
        return self._report()

    def _look_at_held_out(self) -> None:
        """Measure the held-out loss if it is time: from when θ has joined, or from the start."""
        held_out, done = self._held_out, len(self._losses)
        if held_out is None or done < self._adjusts_from:
            return
        if (done - self._adjusts_from) % held_out.every == 0 or done == self._total:
            held_out.look(self._adapted)

    def _step(self) -> None:
        """Take one optimizer step."""
        options, step = self._options, len(self._losses)
        share = rate_share(options.schedule, step, self._total, options.warmup_steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        batches = [next(self._batches) for _ in range(options.accumulation_steps)]
        weights = [self._example_weights(batch) for batch in batches]
        total = sum(map(sum, weights))
        loss = 0.0
        for batch, own in zip(batches, weights, strict=True):
            # The last batch of a pass may be smaller, and conversations of any length.
            loss += self._accumulate_gradients(batch, own, sum(own) / total)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, options.max_grad_norm)
        self._require_finite("loss", loss, step)
        self._require_finite("gradient norm", norm.item(), step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._losses.append(loss)

    def _example_weights(self, batch: Mapping[str, Tensor]) -> list[float]:
        """Return what each example counts in the mean loss of a step, before it is scored."""
        if isinstance(self._study.task, SupportsExampleWeights):
            weights: list[float] = self._study.task.example_weights(batch).tolist()
            return weights
        return [1.0] * examples_in(batch)

    def _accumulate_gradients(
        self, batch: Mapping[str, Tensor], weights: Sequence[float], weight: float
    ) -> float:
        """Add the gradient of a batch's mean loss, its examples shared among configurations.

        Returns:
            The loss; both are multiplied by the batch's weight.
        """
        adapted, whole = self._adapted, sum(weights)
        pieces = min(self._options.batch_configurations, len(weights))
        total = 0.0
        for offset in range(pieces):
            piece = {name: tensor[offset::pieces] for name, tensor in batch.items()}
            position = next(self._sampler)
            configuration = self._configurations[position]
            targets = self._objective.targets(piece)
            self._switch(configuration)
            adjusts = len(self._losses) >= self._adjusts_from
            adapted.projections.set(adapted.adjustments(configuration) if adjusts else None)
            with autocast(self._bfloat16, self._device):
                logits = adapted.logits(piece)
            loss = self._objective(logits, piece, targets)
            share = weight * (sum(weights[offset::pieces]) / whole)
            # Backward before the next switch: the weights it differentiates are replaced then.
            (loss * share).backward()  # type: ignore[no-untyped-call]
            self._sampler.note(position, loss.item())
            total += loss.item() * share
        return total

    def _switch(self, configuration: Configuration) -> None:
        """Put a configuration's weights into the model; count time and look-ups."""
        started, before = time.perf_counter(), self._adapted.cache.counts
        self._adapted.activate(configuration)
        after = self._adapted.cache.counts
        self._counts["hits"] += after.hits - before.hits
        self._counts["misses"] += after.misses - before.misses
        self._counts["switch_seconds"] += time.perf_counter() - started

    def _require_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            rate = self._options.learning_rate * self._options.rate_scale(self._round)
            raise DivergedError(
                f"round {self._round}: the training {what} became {value} at step {step + 1} of"
                f" {self._total}; lower trainer.learning_rate (it is {rate:g} in this round) or"
                " trainer.theta_learning_rate, and begin the study in another directory"
            )

    def _report(self) -> TrainReport:
        counts, cache_bytes = self._counts, self._adapted.cache.counts.nbytes
        looked_up = counts["hits"] + counts["misses"]
        details = {
            # One configuration alone is never switched, which is not a miss.
            "cache_hit_rate": counts["hits"] / looked_up if looked_up else 1.0,
            "cache_mebibytes": cache_bytes / 2**20,
            "cache_mebibytes_allowed": float(self._options.cache_mebibytes),
            "switch_seconds": counts["switch_seconds"],
            "switch_share": counts["switch_seconds"] / (counts["step_seconds"] or 1.0),
            "bfloat16": float(self._bfloat16),
        }
        if self._held_out is not None:
            details["held_out_loss"] = self._held_out.best_loss
        return TrainReport(len(self._losses), counts["seconds"], tuple(self._losses), details)

    def state(self) -> TrainerState:
        """Return what :meth:`restore` needs to continue from here."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self._adapted.tensors(),
            "sampler": self._sampler.state(),
            "batches": self._batches.state(),
            "random": self._randomness(),
            "held_out": self._held_out.state() if self._held_out else {},
        }
        for position, values in self._optimizer.state_dict()["state"].items():
            parts[f"optimizer-{position}"] = values
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().clone()
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        tensors["losses"] = torch.tensor(self._losses, dtype=torch.float64)
        return TrainerState(tensors, dict(self._counts))

    def restore(self, state: TrainerState) -> None:
        """Continue from a saved state of the same study, set and round."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.tensors.items():
            part, _, inner = name.partition(".")
            parts.setdefault(part, {})[inner] = tensor
        self._adapted.load_tensors(parts["model"])
        self._sampler.restore(parts["sampler"])
        self._batches.restore(parts["batches"])
        if self._held_out is not None:
            self._held_out.restore(parts["held_out"])
        saved = {
            int(part.removeprefix("optimizer-")): values
            for part, values in parts.items()
            if part.startswith("optimizer-")
        }
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": saved})
        self._saved_randomness = parts["random"]
        self._losses = state.tensors["losses"].tolist()
        self._counts = {name: float(state.metadata[name]) for name in self._counts}

    def _randomness(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return states

    def _restore_randomness(self) -> None:
        torch.set_rng_state(self._saved_randomness["cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._saved_randomness["cuda"], self._device)
