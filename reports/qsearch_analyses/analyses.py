"""One analysis per figure, and which there are for a study or for a client of one's own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from ax.analysis.analysis import Analysis
from qsearch_reports import figures, frames
from qsearch_reports.results import StudyResults

from qsearch.deployment.selection import best_under
from qsearch.errors import InputError
from qsearch.space.configuration import Knob
from qsearch.storage.study_record import StudyRecord, row_configuration
from qsearch_analyses.cards import StudyAnalysis


class QsearchFront(StudyAnalysis):
    """Loss against average bits, with segments and the overall Pareto front."""

    title = "qsearch: loss against average bits"
    reading = (
        "One marker for each configuration of the last finished round; lower and further left is"
        " better. Filled markers are on the front of their segment (between dotted lines), the"
        " stepped line is the overall Pareto front: configurations that no other one dominates."
        " Bars are one standard error."
    )
    training = " Circles: the adapter was trained on the configuration; diamonds: never."

    def frame(self, results: StudyResults) -> pd.DataFrame:
        return frames.latest_points(frames.points_frame(results.record))

    def subtitle(self, results: StudyResults) -> str:
        return self.reading + self.training if results.record.is_trained else self.reading

    def figure(self, results: StudyResults, frame: pd.DataFrame) -> go.Figure:
        record = results.record
        unit = frames.loss_unit(record)
        return figures.front_figure(frame, record.segment_edges, record.metric, unit=unit)


class QsearchParallelCoordinates(StudyAnalysis):
    """Configurations as lines through what they are made of and what that gives."""

    title = "qsearch: knobs, average bits and loss"
    reading = (
        "One line for each configuration of the last finished round: average bits, the mean of each"
        " knob over the quantized weights, then the loss, and the task metric if there is one."
        " Colours are quarters of the losses, the best first. Where the best lines bundle, that"
        " knob matters."
    )

    def frame(self, results: StudyResults) -> pd.DataFrame:
        return frames.parallel_frame(results.record)

    def figure(self, results: StudyResults, frame: pd.DataFrame) -> go.Figure:
        return figures.parallel_figure(frame, frames.parallel_axes(results.record, frame))


class QsearchMarginals(StudyAnalysis):
    """How the values of a knob shift along the Pareto front.

    ``knob`` is the name of one; ``bits``, or the first one, if None.
    """

    title = "qsearch: a knob along the Pareto front"
    reading = (
        "One bar for each configuration on the overall Pareto front, by average bits: which share"
        " of the quantized weights has which value of the knob: what more bits are spent on."
    )

    def __init__(self, directory: Path | str | None = None, knob: str | None = None) -> None:
        super().__init__(directory)
        self.knob = knob

    def frame(self, results: StudyResults) -> pd.DataFrame:
        return frames.marginals_frame(results.record, _knob(results.record, self.knob).name)

    def figure(self, results: StudyResults, frame: pd.DataFrame) -> go.Figure:
        return figures.marginals_figure(frame, _knob(results.record, self.knob))


class QsearchHypervolume(StudyAnalysis):
    """Hypervolume after each evaluation."""

    title = "qsearch: hypervolume by evaluation"
    reading = (
        "The area in the plane of loss and average bits that the evaluations of a round dominate so"
        " far, from the reference point that the first round fixes, as a share of the area between"
        " it and (loss 0, least average bits). Higher is better. Each round starts again (dotted"
        " lines), since losses under another adapter cannot be compared."
    )
    lacking = "There is no hypervolume until the first round ends."
    draw = staticmethod(figures.progress_figure)

    def frame(self, results: StudyResults) -> pd.DataFrame:
        frame = frames.progress_frame(results)
        return frame[frame["hypervolume"].notna()]


class QsearchHeatmap(StudyAnalysis):
    """The layers of the best configuration at a budget.

    Without a budget of average ``bits``, it is the configuration of least loss.
    """

    title = "qsearch: layers of the best configuration within the budget"
    reading = (
        "One cell for each quantized layer of the configuration that qsearch pick would choose:"
        " roles by blocks, the colour is the value of the knob."
    )

    def __init__(
        self,
        directory: Path | str | None = None,
        bits: float | None = None,
        knob: str | None = None,
    ) -> None:
        super().__init__(directory)
        self.bits = bits
        self.knob = knob
        if bits is not None:
            self.title = f"qsearch: layers of the best configuration at {bits:g} average bits"

    def frame(self, results: StudyResults) -> pd.DataFrame:
        record = results.record
        best = best_under(record, float("inf") if self.bits is None else self.bits)
        knob = _knob(record, self.knob).name
        return frames.heatmap_frame(record.layers, row_configuration(best), knob)

    def figure(self, results: StudyResults, frame: pd.DataFrame) -> go.Figure:
        return figures.heatmap_figure(frame, _knob(results.record, self.knob))


class QsearchSensitivity(StudyAnalysis):
    """Which layers the search protects."""

    title = "qsearch: sensitivity of layers against bits given"
    reading = (
        "One marker for each layer: to the right, how much the loss is predicted to rise if this"
        " layer alone is quantized worst; upward, what the configurations on the Pareto front give"
        " it on average. A search that protects what matters rises to the right."
    )
    lacking = "The study has no scores of layers, or no configuration yet."
    draw = staticmethod(figures.sensitivity_figure)

    def frame(self, results: StudyResults) -> pd.DataFrame:
        return frames.sensitivity_frame(results)


class QsearchPredictions(StudyAnalysis):
    """What the surrogate predicted, against what was observed."""

    title = "qsearch: predicted against observed loss"
    reading = (
        "One marker for each configuration that the surrogate predicted before it was evaluated."
        " On the diagonal, it was right; bars are its 95 % intervals for the observed loss."
    )
    lacking = "The surrogate has predicted no configuration that was then evaluated."
    draw = staticmethod(figures.predictions_figure)

    def frame(self, results: StudyResults) -> pd.DataFrame:
        return frames.predictions_frame(results.record)


class QsearchCalibration(StudyAnalysis):
    """How often observations lay within the intervals that the surrogate claimed."""

    title = "qsearch: calibration of the surrogate"
    reading = (
        "To the right, the probability that the surrogate's central intervals claim; upward, the"
        " share of observations that lay in them. Below the diagonal it is too sure of itself,"
        " above it not sure enough. The band is the 95 % uncertainty of that share."
    )
    lacking = QsearchPredictions.lacking
    draw = staticmethod(figures.calibration_figure)

    def frame(self, results: StudyResults) -> pd.DataFrame:
        return frames.calibration_frame(frames.predictions_frame(results.record))


class QsearchTimeline(StudyAnalysis):
    """When evaluations ran, failed ones among them."""

    title = "qsearch: time line of evaluations"
    reading = (
        "One bar for each evaluation, in minutes of running; as many lanes as ran at once. Crosses"
        " are failures. The row above is what the study was doing."
    )
    lacking = "No evaluation has ended yet."

    def frame(self, results: StudyResults) -> pd.DataFrame:
        return frames.timeline_frame(results)

    def figure(self, results: StudyResults, frame: pd.DataFrame) -> go.Figure:
        return figures.timeline_figure(frame, frames.phases_frame(results))


class QsearchTraining(StudyAnalysis):
    """Training loss of the adapter."""

    title = "qsearch: training loss"
    reading = (
        "Loss of the adapter at each optimizer step, over the configurations sampled there; a line"
        " for each round."
    )
    lacking = "No round with training is finished; the study of an objective has none."
    draw = staticmethod(figures.training_figure)

    def frame(self, results: StudyResults) -> pd.DataFrame:
        return frames.training_frame(results.record)


def study_analyses(directory: Path | str, bits: float | None = None) -> list[Analysis]:
    """Return all analyses of a study, for ``client.compute_analyses`` of any client.

    They read the study's directory whenever they are computed. The heatmap shows the best
    configuration at ``bits`` average bits; without them, that of least loss.
    """
    return [
        QsearchFront(directory),
        QsearchParallelCoordinates(directory),
        QsearchSensitivity(directory),
        QsearchMarginals(directory),
        QsearchHeatmap(directory, bits),
        QsearchHypervolume(directory),
        QsearchPredictions(directory),
        QsearchCalibration(directory),
        QsearchTimeline(directory),
        QsearchTraining(directory),
    ]


def client_analyses(bits: float | None = None) -> list[Analysis]:
    """Return the analyses that need no study: for a client whose node is a ``QsearchNode``."""
    return [
        QsearchFront(),
        QsearchParallelCoordinates(),
        QsearchMarginals(),
        QsearchHeatmap(bits=bits),
        QsearchHypervolume(),
    ]


def _knob(record: StudyRecord, name: str | None) -> Knob:
    """Return a knob by name; the one that a heatmap shows first if None.

    Raises:
        InputError: If the quantizer has no such knob.
    """
    chosen = frames.default_knob(record.choices) if name is None else name
    if chosen not in record.choices.names:
        raise InputError(f"there is no knob {chosen!r}; there are: {list(record.choices.names)}")
    return record.choices.knobs[record.choices.names.index(chosen)]
