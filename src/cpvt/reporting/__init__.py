"""Rows (and arrays saved beside them) become tables, figures and one HTML page; needs no torch."""

from cpvt.reporting.page import gather, report
from cpvt.reporting.summary import Cell, summarise

__all__ = ["Cell", "gather", "report", "summarise"]
