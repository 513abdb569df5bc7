"""One person's address in every form in which it may be found. Pure."""

import re
from dataclasses import dataclass

from gatepost_policy.mail import address, index_key
from gatepost_policy.retention import person_files, person_texts

ERASED = "erased@erased.invalid"


@dataclass(frozen=True, slots=True)
class Person:
    """One address in every form in which it may be found."""

    key: str  # as traps are matched
    local: str  # in lower case, without a tag
    domain: str
    searched: tuple[str, str]  # from and to (exclusive) in message_domain.reversed
    pattern: re.Pattern[bytes]  # for files

    @classmethod
    def of(cls, text: str) -> "Person":
        """The person with the address `text`. Raises ValueError where it is no address."""
        parsed = address.parse(index_key.clean(text.strip()))
        if not parsed.local or not parsed.domain:
            raise ValueError(f"want a mail address, got {text!r}")
        start = index_key.reverse(parsed.domain) + "@"
        local = parsed.trap_key.rpartition("@")[0]
        pattern = person_files.pattern(local, parsed.domain)
        searched = (start, start[:-1] + "A")
        return cls(index_key.fit(parsed.trap_key), local, parsed.domain, searched, pattern)

    def is_same(self, other: str | None) -> bool:
        """True where `other` (a raw address) is this person's."""
        if not other:
            return False
        return index_key.fit(index_key.read_address(index_key.clean(other)).trap_key) == self.key

    def is_in(self, text: str | None) -> bool:
        """True where `text` is this person's address, or holds it."""
        return self.is_same(text) or (text is not None and self._carried(text))

    def _carried(self, text: str) -> bool:
        return self.pattern.search(text.encode("utf-8", "surrogatepass")) is not None

    def _in_message_id(self, text: str) -> bool:
        return text.rstrip("> ").lower().endswith(f".{self.local}@{self.domain}")

    @property
    def wanted(self) -> person_texts.Wanted:
        """The address inside longer texts."""
        # The databases know the lower case of ASCII only, and an A-label may stand as a U-label.
        parts = tuple(
            one for one in (self.local, self.domain) if one.isascii() and "xn--" not in one
        )
        return person_texts.Wanted(
            self._carried,
            self._in_message_id,
            lambda text: person_files.without(text, self.pattern, ERASED),
            parts,
        )
