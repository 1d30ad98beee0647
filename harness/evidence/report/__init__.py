"""A report: one HTML file on the records of results folders, which needs no network and no other file."""

from .page import report

__all__ = ["report"]
