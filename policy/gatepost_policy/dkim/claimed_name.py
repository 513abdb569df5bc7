"""Find whose name an Authentication-Results field has, as its most lenient reader would.

RFC 8601 5: a field from outside with our authserv-id must be removed, because mail programs and
filters after us believe it. Readers are more lenient than the grammar: OpenDMARC takes `mx
.example.net`, `"mx".example.net` and `m\\x).example.net` for our name, Mail::AuthenticationResults
strips a second field name in front, mail programs decode encoded words and drop octets that are no
UTF-8. So a name counts as ours
when any way of dropping comments, blanks, folds, quotes, backslashes and stray parentheses leaves
it; a plain name, as honest servers write it, is compared exactly, and fields of other servers stay.
Pure.

Limits: only the first `MAX_HEAD` octets of a field are taken apart. Where its name has not ended by
then for every reader, the field counts as ours: no honest server writes so long a name. Where
parentheses and quotes are so mixed that readers differ, it does if our name is anywhere in it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from functools import lru_cache
from unicodedata import category, normalize

import idna

from gatepost_policy.mail.address import canonical_domain

MAX_HEAD = 4096  # octets of a field that are taken apart; OpenDMARC reads no more than 1024
# What honest servers write: a name, perhaps a version (RFC 8601 2.2), the first semicolon.
_HONEST = re.compile(
    rb"[ \t\r\n]*+((?>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*))"
    rb"[ \t\r\n]*+(?:[0-9]++[ \t\r\n]*+)?(?:;|\Z)"
)
_SECOND_NAME = re.compile(rb"[^a-z0-9;]*authentication-results\s*:", re.I)
# Quoted strings and comments, as RFC 5322 3.2 has them: backslashes escape, quotes shield.
_MARKS = re.compile(rb'\\.|[()";]', re.S)
# Outside comments: readers differ about what is escaped, and about a parenthesis in quotes.
_ODD = re.compile(rb'\\[";]|[()]')
# What no host name has: here names are cut, and the pieces are put together again.
_CUT = bytes(range(0x21)) + b'\x7f"\\()<>@,:/[]?='
_PIECES = re.compile(rb'[^\x00-\x20\x7f"\\()<>@,:/\[\]?=]+')
# In ISO 8859-1 these two octets are blanks: to Perl's \s, for example.
_OCTET_BLANKS = bytes.maketrans(b"\x85\xa0", b"  ")
# RFC 2047 2: what Python's and other mail libraries decode wherever it stands.
# Blanks and folds within one are wrong, and readers take them.
_ENCODED_WORD = re.compile(rb"=\?[^?]{1,60}\?\s{0,9}[bq]\s{0,9}\?.{0,1000}?\?=", re.I | re.S)
_BLANKS = re.compile(rb"[\r\n\t]| (?=[ ?])|(?<=\?) ")


def claims(value: bytes, authserv_id: str) -> bool:
    """True where some reader takes the field with this value for one of `authserv_id`'s."""
    honest = _HONEST.match(value)
    ours = _forms(authserv_id)
    if honest:
        return canonical_domain(honest[1].decode()) in ours.names
    second = _SECOND_NAME.match(value)
    return _claimed(value, ours) or (second is not None and _claimed(value[second.end() :], ours))


def _claimed(value: bytes, ours: "_Forms") -> bool:
    head = value[:MAX_HEAD]
    cut = len(value) > MAX_HEAD
    decoded, visible = _decoded(head), _visible(head)
    texts = {head, decoded, visible, _visible(decoded), _decoded(visible)}
    if not head.isascii():
        # Readers that take each octet for a character (ISO 8859-1), and two of them for blanks.
        texts |= {head.decode("latin-1").encode(), head.translate(_OCTET_BLANKS)}
    return any(_claims(text, ours, cut) for text in texts)


@dataclass(frozen=True, slots=True)
class _Forms:
    """Our name without the characters that separate names (`_CUT`). `names`: in A-labels, and as it
    is in small letters to readers that know no sharp s (IDNA 2003); `within`: also in U-labels.
    """

    names: tuple[str, ...]
    within: tuple[str, ...]


@lru_cache(maxsize=16)
def _forms(authserv_id: str) -> _Forms:
    ours = _squeezed(authserv_id.encode("utf-8", "surrogateescape"))
    try:
        shown = idna.decode(ours)
    except (idna.IDNAError, UnicodeError):
        return _Forms((canonical_domain(authserv_id), ours), (ours,))
    names = (canonical_domain(authserv_id), ours, canonical_domain(shown.casefold()))
    return _Forms(names, (*names, shown))


def _within(text: bytes, ours: _Forms) -> bool:
    squeezed = _squeezed(text)
    return any(form in squeezed for form in ours.within)


def _claims(text: bytes, ours: _Forms, cut: bool) -> bool:
    """`cut`: `text` is only the first part of the field."""
    readings = [_without_comments(text, lenient) for lenient in (False, True)]
    names = [reading.name for reading in readings]
    if cut and not all(reading.semicolon for reading in readings):
        return True  # a comment, a string or blanks may hide the name behind the cut
    if any(_spells(name, ours.names) for name in names):
        return True
    if not readings[0].closed:
        # A comment or a string that never ends: a reader may begin and end the name anywhere.
        names.append(text)
    elif readings[1].closed and not _ODD.search(names[0]):
        return False
    # OpenDMARC skips a word that begins with an escaped or quoted parenthesis, so the name may
    # follow.
    return any(_within(name, ours) for name in names)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What stands before the first semicolon, without comments. `closed`: each comment and string
    ends. `semicolon`: there is one.
    """

    name: bytes
    closed: bool
    semicolon: bool


def _without_comments(text: bytes, lenient: bool) -> _Reading:
    """One reader's view of the name.

    A `lenient` reader knows neither escapes nor quotes: Mail::AuthenticationResults ignores them in
    comments, OpenDMARC takes a quoted parenthesis for a comment.
    """
    out: list[bytes] = []
    start = depth = begun = 0
    quoted, closed = False, True
    for mark in _MARKS.finditer(text):
        what = mark[0][-1:] if lenient else mark[0]
        at = mark.end() - 1
        if what == b'"' and not depth:
            quoted = not quoted
        elif quoted and not lenient:
            continue
        elif what == b"(":
            if not depth:
                begun = at
            depth += 1
        elif what == b")":
            if depth == 1:
                out.append(text[start:begun])
                start = at + 1
            closed = closed and depth > 0
            depth = max(depth - 1, 0)
        elif what == b";" and not depth:
            return _Reading(b" ".join([*out, text[start:at]]), closed and not quoted, True)
    ended = closed and not depth and not quoted
    return _Reading(b" ".join([*out, text[start:]]), ended, False)


def _spells(text: bytes, ours: tuple[str, ...]) -> bool:
    """True where the pieces of `text`, put together from the left, make one of `ours` at some
    point.
    """
    joined = b""
    for piece in _prefixes(text):
        joined += piece
        if len(joined) > 4 * max(map(len, ours)) + 64:
            return False
        # IDNA reads other dots as one: at the end as well.
        if canonical_domain(joined.decode("utf-8", "ignore")).rstrip(".") in ours:
            return True
    return False


def _prefixes(text: bytes) -> Iterator[bytes]:
    # A semicolon ends the name for a reader that knows no quotes.
    for piece in _PIECES.finditer(text):
        name, semicolon, _ = piece[0].partition(b";")
        yield name
        if semicolon:
            return


def _squeezed(text: bytes) -> str:
    """`text` as a domain, without the characters that separate names (`_CUT`)."""
    return canonical_domain(text.translate(None, _CUT).decode("utf-8", "ignore"))


def _visible(text: bytes) -> bytes:
    """`text` without what nobody sees: blanks outside ASCII, and characters of no width, which IDNA
    keeps (RFC 5892 A.1, the joiners)."""
    if text.isascii():
        return text
    told = normalize("NFKC", text.decode("utf-8", "ignore"))
    return "".join(c for c in told if c.isascii() or category(c)[0] not in "CZ").encode()


def _decoded(text: bytes) -> bytes:
    """`text` with its encoded words decoded."""
    if b"=?" not in text:
        return text
    return _ENCODED_WORD.sub(_word, text)


def _word(match: re.Match[bytes]) -> bytes:
    try:
        told = _BLANKS.sub(b"", match[0])
        ((content, charset),) = decode_header(told.decode("ascii", "replace"))
        text = content if isinstance(content, str) else content.decode(charset or "ascii")
        return str(text).encode()
    except (HeaderParseError, LookupError, ValueError):
        return match[0]
