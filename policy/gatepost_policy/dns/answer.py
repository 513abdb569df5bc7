"""What DNS said about one name and type: records, or why there are none.

Pure. `form` is the answer as `--dns` reads it and `capture` writes it. A reader of the records can
keep what it parsed from them in `parsed`, so that it is cached with the answer.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Why(StrEnum):
    """Why there are no records. The first two are answers, the others failures."""

    NO_NAME = "no-name"  # the name does not exist (RFC 8020)
    NO_RECORD = "no-record"  # the name exists, without a record of this type
    TIMEOUT = "dns-timeout"  # nobody answered within the budget
    SERVFAIL = "dns-servfail"  # the resolver answered with an error
    TRUNCATED = "dns-truncated"  # the answer did not fit and could not be had whole
    BUSY = "dns-busy"  # too many look-ups at once
    LOOP = "dns-cname-loop"  # the name points at itself
    UNUSABLE = "dns-unusable"  # an answer that cannot be read


# What stands after "error" in an answer that is a failure.
ERRORS = {
    "timeout": Why.TIMEOUT,
    "servfail": Why.SERVFAIL,
    "truncated": Why.TRUNCATED,
    "busy": Why.BUSY,
    "cname-loop": Why.LOOP,
    "permerror": Why.UNUSABLE,
}
_WORDS = {why: word for word, why in ERRORS.items()}
# The types that are asked for; they can be keys in a replayed answer.
TYPES = ("TXT", "A", "AAAA", "MX", "PTR")
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_NO_NAME, _NO_RECORD = Why.NO_NAME, Why.NO_RECORD


class Answer:
    """What DNS said about one name and type: its records as text, or why not.

    A TXT record is its strings joined, an MX record "10 mx.example.org", the others one value each;
    names have no dot at the end. `until` is the monotonic time in seconds up to which it is valid.
    `used` is set when the cache is asked for it again.
    """

    __slots__ = ("form", "parsed", "records", "until", "used", "why")

    def __init__(self, records: tuple[str, ...] = (), why: Why | None = None) -> None:
        self.records = records
        self.why = why
        self.until = 0.0
        self.used = False
        self.parsed: dict[str, Any] = {}
        self.form: Any
        if why is _NO_NAME:
            self.form = None
        elif why is _NO_RECORD:
            self.form = []
        elif why is not None:
            self.form = {"error": _WORDS.get(why, "permerror")}
        else:
            self.form = records[0] if len(records) == 1 else list(records)

    @classmethod
    def of(cls, form: Any, kind: str = "TXT") -> "Answer":
        """The answer about records of type `kind`, in the form of `--dns`. Never raises: an unknown
        form is UNUSABLE.

        A text or a list of texts are TXT records (the name has no others); null and {"error": word}
        hold for every type. An object holds the answer for each type: {"TXT": ..., "MX": ["10
        mx.example.org"], "A": ...}.
        """
        if isinstance(form, Mapping) and "error" not in form:
            if not form:
                return cls(why=Why.UNUSABLE)
            form = form.get(kind, [])
        elif kind != "TXT" and isinstance(form, str | list | tuple):
            return cls(why=_NO_RECORD)
        if form is None:
            return cls(why=_NO_NAME)
        if isinstance(form, Mapping):
            return cls(why=ERRORS.get(str(form.get("error")), Why.UNUSABLE))
        if isinstance(form, str):
            return cls((form,))
        if not isinstance(form, list | tuple):
            return cls(why=Why.UNUSABLE)
        records = tuple(text for text in form if isinstance(text, str))
        return cls(records) if records else cls(why=_NO_RECORD)

    @property
    def failed(self) -> bool:
        """True where DNS gave no usable answer: nothing is known about the name."""
        return self.why is not None and self.why not in (_NO_NAME, _NO_RECORD)

    @property
    def size(self) -> int:
        """About how many octets this answer takes in the cache, with its parsed key (2.6 kB
        measured).
        """
        return 512 + 2600 * bool(self.records) + sum(map(len, self.records))


TIMEOUT = Answer(why=Why.TIMEOUT)
BUSY = Answer(why=Why.BUSY)
