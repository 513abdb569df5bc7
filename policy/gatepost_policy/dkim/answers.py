"""What DNS said about one name, as a value that remembers the key it holds.

Pure. An `Answer` has three forms: records or a reason, what `--dns` reads and `capture` writes
(`form`), and for each key type the parsed key or why there is none (`key`).
"""

from collections.abc import Mapping
from typing import Any

from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim import keys
from gatepost_policy.dkim.reasons import Why

MAX_RECORDS = 16  # of one name that are read
# What stands after "error" in an answer that is a failure.
ERRORS = {
    "timeout": Why.DNS_TIMEOUT,
    "servfail": Why.DNS_SERVFAIL,
    "truncated": Why.DNS_TRUNCATED,
    "busy": Why.DNS_BUSY,
    "cname-loop": Why.DNS_LOOP,
    "permerror": Why.DNS_UNUSABLE,
}
_WORDS = {why: word for word, why in ERRORS.items()}


class Answer:
    """What DNS said about one name: TXT records (each with its strings joined), or why not.

    `form` is the answer as `--dns` reads it. `key` parses on demand, once for each algorithm.
    """

    __slots__ = ("_keys", "form", "records", "used", "until", "why")

    def __init__(self, records: tuple[str, ...] = (), why: Why | None = None) -> None:
        self.records = records
        self.why = why
        self.until = 0.0
        self.used = False
        self._keys: dict[str, keys.Key | Why] = {}
        self.form: Any
        if why is Why.NO_KEY:
            self.form = None
        elif why is Why.NO_TXT:
            self.form = []
        elif why is not None:
            self.form = {"error": _WORDS.get(why, "permerror")}
        else:
            self.form = records[0] if len(records) == 1 else list(records)

    @classmethod
    def of(cls, form: Any) -> "Answer":
        """The answer in the form of `--dns`: text, list of texts, null or {"error": word}."""
        if form is None:
            return cls(why=Why.NO_KEY)
        if isinstance(form, str):
            return cls((form,))
        if isinstance(form, Mapping):
            return cls(why=ERRORS.get(str(form.get("error")), Why.DNS_UNUSABLE))
        if not isinstance(form, list | tuple):
            return cls(why=Why.DNS_UNUSABLE)
        records = tuple(text for text in form if isinstance(text, str))
        return cls(records) if records else cls(why=Why.NO_TXT)

    @property
    def size(self) -> int:
        """Octets that this answer holds in the cache, its parsed key (2.6 kB measured) included."""
        return 512 + 2600 * bool(self.records) + sum(map(len, self.records))

    def key(self, kind: str, settings: Dkim) -> keys.Key | Why:
        """The first record whose key fits `kind` (rsa, ed25519), or why there is none."""
        found = self._keys.get(kind)
        if found is None:
            found = self._keys[kind] = self._find(kind, settings)
        return found

    def _find(self, kind: str, settings: Dkim) -> keys.Key | Why:
        if self.why is not None:
            return self.why
        parsed = [keys.parse(record, settings) for record in self.records[:MAX_RECORDS]]
        for key in parsed:
            # RFC 6376 3.6.2.2: several records are undefined; the first usable one is ours.
            if not isinstance(key, Why) and key.kind == kind:
                return key
        if len(parsed) > 1:
            return Why.SEVERAL_KEYS
        return parsed[0] if isinstance(parsed[0], Why) else Why.KEY_TYPE


TIMEOUT = Answer(why=Why.DNS_TIMEOUT)
BUSY = Answer(why=Why.DNS_BUSY)
