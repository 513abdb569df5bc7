"""milterctl: one module a command."""

from gatepost_milter.cli.milterctl import main

__all__ = ["main"]
