"""milterctl: one module for each command."""

from gatepost_milter.cli.milterctl import main

__all__ = ["main"]
