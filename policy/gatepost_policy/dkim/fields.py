"""The header section as signatures see it: fields found by name, canonicalised at most once.

`Fields` is filled as the header arrives; `signed` gives the signing input of one `h=`
(RFC 6376 3.4.1, 3.4.2, 5.4.2). Values carry their leading space (P_HDR_LEADSPC) and fold with LF
or CRLF; without that space c=simple could never verify.

dkimpy's canonicalization runs two regular expressions over every field and takes three times as
long; a field without a bare CR, VT or FF needs one `split`. Fields with one of those take the slow
way here too, because VT and FF are no white space in RFC 6376 2.8 (dkimpy strips them).
"""

import re
from collections.abc import Iterable, Sequence

CRLF = b"\r\n"
CR, VT, FF = 0x0D, 0x0B, 0x0C
_WSP = re.compile(rb"[ \t]+")


def relaxed_value(value: bytes) -> bytes:
    """A field's value unfolded, its blanks squeezed and stripped (RFC 6376 3.4.2)."""
    # Octets as numbers: `in` is three times as fast for them as for bytes of length one.
    if CR in value or VT in value or FF in value:
        value = value.replace(CRLF, b"\n")
        if CR in value or VT in value or FF in value:
            return _WSP.sub(b" ", value.replace(b"\n", b"")).strip(b" ")
    return b" ".join(value.split())


def simple_value(value: bytes) -> bytes:
    """A field's value as it was on the wire: every fold is CRLF again."""
    if b"\n" not in value:
        return value
    return value.replace(CRLF, b"\n").replace(b"\n", CRLF)


# Short names that have come, as octets and as they are compared: most messages have the same ones.
# Not an lru_cache, which takes four times as long to give one of them. Emptied when it is full:
# else one sender with a thousand invented names would make all later mail dearer.
_spellings: dict[str, tuple[bytes, bytes, str]] = {}
NAMES_KEPT, LONGEST_NAME_KEPT = 1024, 78


def _spelled(name: str) -> tuple[bytes, bytes, str]:
    """A field's name as octets, and as it is compared: as octets, and as text."""
    raw = name.encode("utf-8", "surrogateescape")
    # RFC 5322 4.5.8: an obsolete field may have blanks before its colon.
    every = raw, raw.lower().rstrip(), name.lower().rstrip()
    if len(raw) <= LONGEST_NAME_KEPT:
        if len(_spellings) >= NAMES_KEPT:
            _spellings.clear()
        _spellings[name] = every
    return every


class Fields:
    """All header fields of one message, top to bottom."""

    __slots__ = ("_by_name", "_keys", "_relaxed", "all")

    def __init__(self) -> None:
        self.all: list[tuple[bytes, bytes]] = []
        self._keys: list[bytes] = []
        self._by_name: dict[bytes, list[int]] | None = None
        self._relaxed: dict[int, bytes] = {}

    def take(self, fields: Iterable[tuple[str, bytes]]) -> dict[str, list[bytes]]:
        """Take all fields of a message at once, as (name, value). Returns their values by name, in
        small letters and without blanks at the end.
        """
        every, keys = self.all, self._keys
        places: dict[bytes, list[int]] = {}
        values: dict[str, list[bytes]] = {}
        known = _spellings.get
        for name, value in fields:
            raw, key, text = known(name) or _spelled(name)
            if key in places:
                places[key].append(len(keys))
            else:
                places[key] = [len(keys)]
            if text in values:
                values[text].append(value)
            else:
                values[text] = [value]
            every.append((raw, value))
            keys.append(key)
        self._by_name = places
        return values

    def by_name(self) -> dict[bytes, list[int]]:
        """The indexes in `all` of each field name; names are lower-case, without blanks at the
        end.
        """
        found = self._by_name
        if found is None:
            # RFC 5322 4.5.8: an obsolete field may have blanks before its colon.
            self._keys = [name.lower().rstrip() for name, _ in self.all]
            found = self._by_name = {}
            for index, key in enumerate(self._keys):
                found.setdefault(key, []).append(index)
        return found

    def canonical(self, index: int, relaxed: bool) -> bytes:
        """Field number `index` without its line end. Only after `by_name`."""
        if not relaxed:
            return self.one(*self.all[index], False)
        text = self._relaxed.get(index)
        if text is None:
            value = relaxed_value(self.all[index][1])
            text = self._relaxed[index] = self._keys[index] + b":" + value
        return text

    @staticmethod
    def one(name: bytes, value: bytes, relaxed: bool) -> bytes:
        """A field in canonical form, without its line end."""
        if relaxed:
            return name.lower().rstrip() + b":" + relaxed_value(value)
        return name + b":" + simple_value(value)

    def signed(self, names: Iterable[bytes], relaxed: bool, own: int) -> list[bytes]:
        """The canonical fields that `names` (lower-case, in the order of `h=`) select.

        RFC 6376 5.4.2: a name repeated takes the next instance upwards; one too many takes
        nothing. `own` is the index of the signature itself, which never signs itself (3.5, h=).
        """
        where = self.by_name()
        done = self._relaxed
        used: dict[bytes, int] = {}
        out: list[bytes] = []
        for name in filter(where.__contains__, names):
            places = where[name]
            left = used.get(name, len(places)) - 1
            if left >= 0 and places[left] == own:
                left -= 1
            if left < 0:
                used[name] = 0
                continue
            used[name] = left
            index = places[left]
            if not relaxed:
                out.append(self.canonical(index, False))
                continue
            text = done.get(index)
            if text is None:  # `canonical`, without a call for each of a dozen fields
                text = done[index] = name + b":" + relaxed_value(self.all[index][1])
            out.append(text)
        return out

    def covered(self, names: Sequence[bytes], wanted: Iterable[bytes]) -> list[bytes]:
        """The values of the fields called `wanted` that an `h=` of `names` covers.

        RFC 6376 5.4.2: counted from the bottom; fields that were added above the signed ones are
        not covered.
        """
        where = self.by_name()
        found: list[bytes] = []
        for name in wanted:
            places = where.get(name)
            if places is not None and (signed := names.count(name)):
                found += [self.all[index][1] for index in places[-signed:]]
        return found
