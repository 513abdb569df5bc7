"""Run a rule set over the stored history."""

from gatepost_policy.backtest.backtest import Result, run, total

__all__ = ["Result", "run", "total"]
