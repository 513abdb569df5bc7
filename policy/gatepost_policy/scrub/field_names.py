"""Which header fields stay or are removed by their name: the lists of [submission], compiled.
Pure.
"""

import re
from enum import Enum
from fnmatch import translate
from functools import lru_cache

from gatepost_policy.config.field_lists import (
    IN_THE_FAMILIES,
    KNOWN_FIELDS,
    PROGRAM_FAMILIES,
    PROGRAM_TEXT,
)
from gatepost_policy.config.settings import Submission

MAX_NAMES = 4096  # bounded, because any name may come

_FAMILIES = tuple(start.lower() for start in PROGRAM_FAMILIES)
_IN_FAMILIES = frozenset(name.lower() for name in (*IN_THE_FAMILIES, *PROGRAM_TEXT))


class Fate(Enum):
    """What happens to a field. `UNKNOWN`: on no list, so that its value, or `unknown_fields`,
    decides. `ODD`: in a known family, by a name that nobody has heard of: its value decides.
    """

    GOES = "goes"
    STAYS = "stays"
    UNKNOWN = "unknown"
    ODD = "odd"


class FieldNames:
    """The compiled lists: `keep` comes before `remove`, and both before KNOWN_FIELDS. Safe to share
    between threads.
    """

    def __init__(self, settings: Submission) -> None:
        self._keep = _globs(settings.keep)
        self._remove = _globs(settings.remove)
        self._known = _globs(KNOWN_FIELDS)
        self._fates: dict[str, Fate] = {}

    def fate(self, name: str) -> Fate:
        """What happens to the field `name` (lower-case)."""
        found = self._fates.get(name)
        if found is None:
            found = self._look_up(name)
            if len(self._fates) < MAX_NAMES:
                self._fates[name] = found
        return found

    def _look_up(self, name: str) -> Fate:
        if self._keep.match(name):
            return Fate.STAYS
        if self._remove.match(name):
            return Fate.GOES
        if not self._known.match(name):
            return Fate.UNKNOWN
        odd = name.startswith(_FAMILIES) and name not in _IN_FAMILIES
        return Fate.ODD if odd else Fate.STAYS

    def removes(self, name: str) -> bool:
        """True where the removal list covers the field `name` (lower-case)."""
        return self.fate(name) is Fate.GOES


@lru_cache(maxsize=16)
def _globs(globs: tuple[str, ...]) -> re.Pattern[str]:
    # "(?!)" matches nothing: an empty list covers no name.
    return re.compile("|".join(translate(glob.lower()) for glob in globs) or "(?!)")
