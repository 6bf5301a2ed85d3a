"""What all analyses of this package do: read results, say what is missing, draw a card."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from ax.adapter.base import Adapter
from ax.analysis.analysis import Analysis
from ax.analysis.plotly.plotly_analysis import PlotlyAnalysisCard, create_plotly_analysis_card
from ax.core.experiment import Experiment
from ax.generation_strategy.generation_strategy import GenerationStrategy
from qsearch_reports.results import StudyResults, read_results

from qsearch.errors import QsearchError
from qsearch.storage.paths import LOG, STUDY_FILE, STUDY_YAML, TRIALS_FILE
from qsearch_analyses.experiment_record import experiment_record

_FILES = (STUDY_FILE, TRIALS_FILE, LOG, STUDY_YAML)


class StudyAnalysis(Analysis):  # type: ignore[misc]  # Ax is not typed
    """A card of one figure, from a study's directory or from the experiment alone.

    Args:
        directory: Directory of a qsearch study, whose files are read. If None, the experiment's
            trials are, with the space of the :class:`~qsearch.experiment.node.QsearchNode` in its
            generation strategy.
    """

    title: str
    """What the card shows. Ax writes titles and subtitles into HTML as they are: no names."""
    reading: str
    """How to read it."""
    lacking: str = "No evaluation has completed yet."
    """Why there is nothing to show where the frame is empty."""
    draw: Callable[[pd.DataFrame], go.Figure]
    """Makes the figure of the frame, where that takes no more."""

    def __init__(self, directory: Path | str | None = None) -> None:
        self.directory = None if directory is None else Path(directory)

    def frame(self, results: StudyResults) -> pd.DataFrame:
        """Return the table that the figure is drawn from; empty if there is nothing to show.

        Raises:
            InputError: Saying why it cannot be made.
        """
        raise NotImplementedError

    def subtitle(self, results: StudyResults) -> str:
        """Return how to read it."""
        return self.reading

    def figure(self, results: StudyResults, frame: pd.DataFrame) -> go.Figure:
        """Return the figure."""
        return self.draw(frame)

    def validate_applicable_state(
        self,
        experiment: Experiment | None = None,
        generation_strategy: GenerationStrategy | None = None,
        adapter: Adapter | None = None,
    ) -> str | None:
        """Return why the card is not available, as text for HTML; None if it is."""
        try:
            results = self.results(experiment, generation_strategy)
            return self.lacking if self.frame(results).empty else None
        except QsearchError as error:
            return html.escape(str(error))
        except Exception:
            return None  # It would end all other analyses; compute raises it again for Ax to show.

    def compute(
        self,
        experiment: Experiment | None = None,
        generation_strategy: GenerationStrategy | None = None,
        adapter: Adapter | None = None,
    ) -> PlotlyAnalysisCard:
        """Return the card: its table as ``df``, its figure as ``get_figure()``."""
        results = self.results(experiment, generation_strategy)
        frame = self.frame(results)
        figure = self.figure(results, frame)
        # Cards are narrow: a legend of several lines would cover the title.
        figure.update_layout(legend={"yref": "container", "y": 0, "yanchor": "bottom"})
        return create_plotly_analysis_card(
            name=type(self).__name__,
            title=self.title,
            subtitle=self.subtitle(results),
            df=frame,
            fig=figure,
        )

    def results(
        self, experiment: Experiment | None, generation_strategy: GenerationStrategy | None
    ) -> StudyResults:
        """Return what the card is made from."""
        if self.directory is None:
            record = experiment_record(experiment, generation_strategy)
            return StudyResults(record, directory="")
        return _read(self.directory, _stamp(self.directory))


def _stamp(directory: Path) -> tuple[tuple[int, int], ...]:
    """Return what changes when a study writes its results."""
    paths = [directory / name for name in _FILES if (directory / name).is_file()]
    return tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in paths)


@lru_cache(maxsize=4)
def _read(directory: Path, stamp: tuple[tuple[int, int], ...]) -> StudyResults:
    """Read a study once for all its cards, and again once it has written."""
    del stamp
    return read_results(directory)
