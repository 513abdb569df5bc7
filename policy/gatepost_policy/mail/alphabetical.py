"""Walks: names that are tried one after the other in alphabetical order, from several hosts.

Somebody works off a list and has spread it over many machines, each of which does next to nothing.
Pure.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import factorial

MIN_RUN = 6  # steps in alphabetical order
MIN_RUN_HOSTS = 3
# A run that steps in any order would show more often than this is no walk.
CHANCE_MAX = 0.01
# Between two steps of one walk there is never more than this.
RUN_GAP_S = 14 * 86_400


@dataclass(frozen=True, slots=True)
class Step:
    """One name that one host tried. `at` in Unix seconds; `message` where one belongs to it."""

    at: float
    host: str  # its prefix
    name: str
    message: int = 0


def walks(steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
    """The walks among `steps`, which come oldest first."""
    # The same name again is no step back.
    moves: list[Step] = []
    for step in steps:
        if not moves or moves[-1].name != step.name:
            moves.append(step)
    shortest = _shortest_run(len(moves))
    run: list[Step] = []
    for step in moves:
        if run and (step.name <= run[-1].name or step.at - run[-1].at > RUN_GAP_S):
            if _is_walk(run, shortest):
                yield tuple(run)
            run = []
        run.append(step)
    if _is_walk(run, shortest):
        yield tuple(run)


def _is_walk(run: list[Step], shortest: int) -> bool:
    return len(run) >= shortest and len({step.host for step in run}) >= MIN_RUN_HOSTS


def _shortest_run(steps: int) -> int:
    """The length of a run that chance does not explain among so many steps.

    In a random order a run of `length` or more begins at one step in (length + 1)! / length: each
    of the orders of `length` steps is as likely as the other, and before it stands a larger one.
    """
    length = MIN_RUN
    while steps * length / factorial(length + 1) > CHANCE_MAX:
        length += 1
    return length
