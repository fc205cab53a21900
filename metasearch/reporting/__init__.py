"""What a run directory says, for people: one HTML file a run, and tables over several runs."""

from metasearch.reporting.comparison import Comparison, Difference, Row, compare
from metasearch.reporting.report import plots, write_report

__all__ = ["Comparison", "Difference", "Row", "compare", "plots", "write_report"]
