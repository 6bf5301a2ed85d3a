"""Reports of studies: frames (pure data) → figures (Plotly) → page (one offline HTML file)."""

from qsearch_reports.page import write_report
from qsearch_reports.summary import summary_table

__all__ = ["summary_table", "write_report"]
