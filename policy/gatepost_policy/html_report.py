"""`milterctl report --format html`: the report as one self-contained page."""

from gatepost_policy.html.page import render

__all__ = ["render"]
