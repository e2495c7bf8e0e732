"""Turn rows and saved arrays into tables, figures and HTML pages. Needs no torch."""

from cpvt.reporting.page import gather, report
from cpvt.reporting.summary import Cell, summarise

__all__ = ["Cell", "gather", "report", "summarise"]
