"""A study in Python: an objective that is searched, or the results of any study."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from qsearch._text import reason_of
from qsearch.api.model_space import Space
from qsearch.api.objective_session import ObjectiveSession
from qsearch.api.observation import Observation, as_observation
from qsearch.api.picking import picked_row
from qsearch.api.quantization import QuantizerConfiguration
from qsearch.api.results import Metrics, configurations_table, trials_table
from qsearch.api.trial import Trial, trial_of_row
from qsearch.errors import InputError, ObjectiveError, QsearchError
from qsearch.plugins.registry import load_plugin
from qsearch.search.pareto import non_dominated
from qsearch.spec.sections import OBJECTIVE
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.measurements import read_footprint
from qsearch.storage.objective_file import read_objective
from qsearch.storage.paths import STUDY_FILE
from qsearch.storage.study_record import StudyRecord, read_study, row_metrics, selection_loss

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Objective = Callable[[QuantizerConfiguration], "float | Observation"]
"""Returns the loss of a configuration."""

_log = logging.getLogger("qsearch")


class Study:
    """A study and its directory; make it with ``create_study`` or ``load_study``.

    All that it reports is in the directory, which ``qsearch status``, ``report`` and ``pick`` read
    too. While trials are asked for, the directory is held; :meth:`close` frees it, and so does the
    end of a ``with`` block, of :meth:`optimize`, and of the process.

    >>> import qsearch
    >>> study = qsearch.create_study(space, bits=(3.0, 7.0))
    >>> study.optimize(loss, trials=6)
    >>> study.best(bits=5.0).average_bits <= 5.0
    True
    """

    def __init__(
        self, directory: Path, spec: StudySpec, space: Space | None, keep: object = None
    ) -> None:
        self.directory, self.space = directory, space
        self._spec = spec
        self._session: ObjectiveSession | None = None
        self._is_optimizing = False
        self._keep = keep

    @property
    def name(self) -> str:
        """The study's name."""
        return self._spec.name

    def __repr__(self) -> str:
        """Say which study it is."""
        return f"Study({self.name!r}, {str(self.directory)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def optimize(
        self,
        objective: Objective,
        trials: int,
        catch: tuple[type[Exception], ...] = (),
        on_trial: Callable[[Trial], None] | None = None,
    ) -> None:
        """Evaluate configurations until the study has a number of trials, failures included.

        Called again after an interruption, also by another process, it continues: no trial that has
        a result is evaluated again. It ends sooner where no configuration is left.

        Args:
            objective: Returns the loss of a configuration, as a number or an ``Observation``.
            trials: Of the study, those before this call included; 2 or more.
            catch: Exceptions of the objective that count as failures of their trial;
                ``ObjectiveError`` stands for a loss that is not finite. Any other ends the call.
            on_trial: Called with each trial that has a result.

        Raises:
            ObjectiveError: If the objective raises an exception, or returns what is not a finite
                loss. The results before it are kept.
            StudyBusyError: If the directory is held, by this process or another.

        >>> study.optimize(loss, trials=6)
        >>> len(study.trials_dataframe()) >= 6
        True
        """
        if not callable(objective):
            raise InputError(f"objective: give a function, not {objective!r}")
        if isinstance(trials, bool) or not isinstance(trials, int) or trials < 2:
            raise InputError(f"trials: give a number of trials, 2 or more, not {trials!r}")
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in catch):
            raise InputError(f"catch: give a tuple of exceptions, not {catch!r}")
        self.close()
        if self._count() >= trials:
            return
        session = self._session = self._open(trials)
        self._is_optimizing = True
        try:
            while session.done < trials:
                trial = session.ask()
                if trial is None:
                    _log.warning("no configuration is left: %s trials of %s", session.done, trials)
                    break
                trial = self._evaluate(session, objective, trial, catch)
                if on_trial is not None and trial.loss is not None:
                    on_trial(trial)
        except BaseException as error:
            session.close(error=error)
            raise
        else:
            session.close(f"{session.done} trials")
        finally:
            self._session, self._is_optimizing = None, False

    def ask(self) -> Trial:
        """Return a trial to evaluate; :meth:`tell` its result.

        Several may be asked for before any is told: the search takes those that wait into account.

        Raises:
            QsearchError: If no configuration is left.

        >>> trial = study.ask()
        >>> trial.loss is None
        True
        """
        self._require_idle()
        if self._session is None:
            self._session = self._open(None)
            self._finalizer = weakref.finalize(self, self._session.close)
        trial = self._session.ask()
        if trial is None:
            raise QsearchError(f"study {self.name!r}: no configuration is left to try")
        return trial

    def tell(
        self,
        trial: Trial | int,
        observation: float | Observation | None = None,
        failure: str | None = None,
    ) -> None:
        """Save the result of a trial that was asked for, or why it has none.

        Raises:
            InputError: If the trial does not wait for a result.
            ObjectiveError: If the observation is not a finite loss; the trial still waits.

        >>> study.tell(study.ask(), 0.52)
        >>> study.tell(study.ask(), failure="out of memory")
        """
        if (observation is None) == (failure is None):
            raise InputError("tell: give either an observation or a failure")
        self._require_idle()
        configuration = trial.configuration if isinstance(trial, Trial) else None
        try:
            number = index(trial.number if isinstance(trial, Trial) else trial)
        except TypeError as error:
            raise InputError(f"tell: give a trial or its number, not {trial!r}") from error
        if self._session is None:
            raise InputError(f"trial {number}: it does not wait for a result; ask for one first")
        self._session.require_pending(number, configuration)
        if failure is not None:
            self._session.report_failure(number, failure)
        else:
            self._session.report(number, as_observation(observation))

    def close(self) -> None:
        """Save the results and free the directory; the study may be used again.

        >>> import qsearch
        >>> study.close()
        >>> qsearch.load_study(study.directory).best() == study.best()
        True
        """
        self._require_idle()
        if self._session is not None:
            self._finalizer.detach()
            session, self._session = self._session, None
            session.close()

    def trials_dataframe(self) -> pd.DataFrame:
        """Return one row per configuration and round, with its losses and metrics.

        >>> list(study.trials_dataframe()["trial"][:3])
        [0, 1, 2]
        """
        return trials_table(self._record(), self._metrics())

    def configurations_dataframe(self) -> pd.DataFrame:
        """Return the long table: one row per trial, layer and knob, with the knob's value.

        >>> list(study.configurations_dataframe())
        ['trial', 'layer', 'role', 'block', 'knob', 'value']
        """
        return configurations_table(self._record())

    def best(
        self,
        bits: float | None = None,
        bytes: int | str | None = None,
        *,
        max: Mapping[str, float] | None = None,
        min: Mapping[str, float] | None = None,
    ) -> Trial:
        """Return the trial of least loss, estimated where it is, within a budget, as ``pick`` does.

        Of a study with rounds, it is one of the last finished round.

        Args:
            bits: Budget in average bits.
            bytes: Budget of the weight files, such as ``"60MB"``, instead.
            max: Greatest values of metrics or the loss, as observed, such as ``{"kl": 0.05}``.
                Without a budget, limits give the trial of fewest average bits that keeps them.
            min: Least values, likewise.

        Raises:
            InputError: If no trial fits, or the study does not know bytes or the metric.

        >>> study.best(bits=5.0).average_bits <= 5.0
        True
        >>> study.best(bytes="15kB").file_bytes <= 15_000
        True
        """
        record = self._record()
        row = picked_row(record, self.directory, bits, bytes, max, min)
        return self._trial(record, row, self._metrics())

    def front(self) -> list[Trial]:
        """Return the Pareto front of loss and the study's size, from small to large.

        >>> losses = [trial.loss for trial in study.front()]
        >>> losses == sorted(losses, reverse=True)
        True
        """
        record = self._record()
        latest = record.latest.sort_values([record.size, "trial"])
        points = np.column_stack([selection_loss(latest, record.objective), latest[record.size]])
        metrics = self._metrics()
        on_front = latest[non_dominated(points)]
        return [self._trial(record, row, metrics) for _, row in on_front.iterrows()]

    def plot_front(self) -> Figure:
        """Return the Plotly figure of losses against the study's size.

        >>> study.plot_front().layout.title.text
        'Loss against average bits, round 1'
        """
        draw = load_plugin("reports", "front")
        figure: Figure = draw(self._record(), read_footprint(self.directory))
        return figure

    def report(self, path: str | Path | None = None) -> Path:
        """Write the interactive report, by default ``report.html`` in the directory.

        >>> study.report().name
        'report.html'
        """
        self._record()
        target = self.directory / "report.html" if path is None else Path(path)
        written: Path = load_plugin("reports", "page")([self.directory], target)
        return written

    def _require_idle(self) -> None:
        if self._is_optimizing:
            raise InputError(
                f"study {self.name!r}: optimize is running; it asks, tells and closes itself"
            )

    def _count(self) -> int:
        """Return how many trials have a result by the files; after a kill it may be fewer."""
        if not (self.directory / STUDY_FILE).is_file():
            return 0
        return int(read_study(self.directory).trials["trial"].nunique())

    def _open(self, limit: int | None) -> ObjectiveSession:
        if self._spec.trainer.name != OBJECTIVE:
            raise InputError(
                f"{self.directory}: this study trains by {self._spec.trainer.name!r}; continue it"
                " with qsearch.run_study"
            )
        if self.space is None:
            raise InputError(
                f"{self.directory}: give load_study the space, made from the same model, to"
                " continue this study"
            )
        stop = self._spec.search.stop.model_copy(update={"evaluations": limit})
        search = self._spec.search.model_copy(update={"stop": stop})
        spec = self._spec.model_copy(update={"search": search})
        return ObjectiveSession(self.space, spec, self.directory)

    def _evaluate(
        self,
        session: ObjectiveSession,
        objective: Objective,
        trial: Trial,
        catch: tuple[type[Exception], ...],
    ) -> Trial:
        number = trial.number
        kept = f"{session.done} results are kept in {self.directory}; optimize continues from them"
        try:
            observed = as_observation(objective(trial.configuration))
        except catch as error:
            session.report_failure(number, reason_of(error))
            _log.info("trial %s failed: %s", number, error)
            return trial
        except ObjectiveError as error:
            raise ObjectiveError(f"trial {number}: {error}; {kept}") from None
        except Exception as error:
            raise ObjectiveError(
                f"trial {number}: the objective raised {reason_of(error)}; {kept}"
            ) from error
        done = session.report(number, observed)
        _log.info("trial %s: %.4f bits, loss %.6g", number, done.average_bits, observed.loss)
        return done

    def _record(self) -> StudyRecord:
        return self._session.save() if self._session is not None else read_study(self.directory)

    def _metrics(self) -> Metrics:
        return read_objective(self.directory).metrics

    def _trial(self, record: StudyRecord, row: pd.Series, metrics: Metrics) -> Trial:
        quantizer = self._spec.quantizer if self.space is None else self.space.quantizer
        own = metrics.get(int(row["trial"]))
        if own is None:
            known = row_metrics(record.metric_names, row)
            own = {name: metric.value for name, metric in known.items()}
        return trial_of_row(row, quantizer, own)
