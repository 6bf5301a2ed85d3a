"""Ax analyses that show qsearch's figures next to Ax's own (``Client.compute_analyses``)."""

from qsearch_analyses.analyses import (
    QsearchCalibration,
    QsearchFront,
    QsearchHeatmap,
    QsearchHypervolume,
    QsearchMarginals,
    QsearchParallelCoordinates,
    QsearchPredictions,
    QsearchSensitivity,
    QsearchTimeline,
    QsearchTraining,
    client_analyses,
    study_analyses,
)
from qsearch_analyses.experiment_record import experiment_record

__all__ = [
    "QsearchCalibration",
    "QsearchFront",
    "QsearchHeatmap",
    "QsearchHypervolume",
    "QsearchMarginals",
    "QsearchParallelCoordinates",
    "QsearchPredictions",
    "QsearchSensitivity",
    "QsearchTimeline",
    "QsearchTraining",
    "client_analyses",
    "experiment_record",
    "study_analyses",
]
