"""Reads the document of a measurement, plan or adaptation and writes one HTML file for people.

Hides how the page is laid out, how its charts are described and themed, and how everything, the
chart library too, is put into a single file that opens without a network. It reads figures and
never measures: every number on the page is in the document.
"""

from matryo.report.page import write_report

__all__ = ["write_report"]
