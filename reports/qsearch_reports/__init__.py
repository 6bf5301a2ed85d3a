"""Reports of studies: frames (pure data) → figures (Plotly) → page (one offline HTML file)."""

from qsearch_reports.page.page import write_report
from qsearch_reports.summaries.table import summary_table

__all__ = ["summary_table", "write_report"]
