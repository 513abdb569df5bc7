"""Walks: names that are tried one after the other in alphabetical order, from several hosts.

One sender works through a list of names from many hosts, with a few tries from each host. Pure.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import factorial

MIN_RUN = 6  # steps in alphabetical order
MIN_RUN_HOSTS = 3
# A run that would appear by chance with more than this probability is not reported.
CHANCE_MAX = 0.01
# The longest gap between two steps of one walk, in seconds.
RUN_GAP_S = 14 * 86_400


@dataclass(frozen=True, slots=True)
class Step:
    """One name that one host tried. `at` in Unix seconds; `message` is its number in the store, 0
    for none.
    """

    at: float
    host: str  # its prefix
    name: str
    message: int = 0


def walks(steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
    """The walks among `steps`, which come oldest first."""
    # The same name again does not end a run.
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

    In a random order, a run of `length` or more steps begins at a given step with probability
    length / (length + 1)!: `length` steps are in one of length! orders, and the step before is
    larger.
    """
    length = MIN_RUN
    while steps * length / factorial(length + 1) > CHANCE_MAX:
        length += 1
    return length
