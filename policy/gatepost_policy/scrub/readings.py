"""A header field's value as readers may decode it, each encoding removed. Pure.

A name in base64 reveals as much as the plain name. So a value is searched as it stands and in each
form that comes out when an encoding is removed.
"""

import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

# RFC 5322 2.2.3; RFC 2047 2 and, for the language after the charset, RFC 2231 5.
_FOLD = re.compile(rb"\r?\n[ \t]+")
_ENCODED = re.compile(
    rb"=\?([^?*\s]{1,80})(?:\*[^?\s]{0,20})?\?([BQ])\?([^?\s]*)\?=(?:\s+(?==\?))?", re.I
)
_PAIR = re.compile(rb"\\(.)", re.S)  # RFC 5322 3.2.1
_BASE64 = re.compile(rb"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{6,400}(?![A-Za-z0-9+/_-])")
_HEX = re.compile(rb"(?<![0-9a-f])(?:[2-7][0-9a-f]){6,400}(?![0-9a-f])", re.I)
# RFC 2231 3 and 4.1: client*0="alice-"; client*1*=laptop%2Elan
_PIECE = re.compile(rb"([\w-]{1,60})\*(\d{1,3})(\*?)=(?:\"([^\"]*)\"|([^;\s\"]*))")
_ESCAPE = re.compile(rb"\\(?:u([0-9a-f]{4})|x([0-9a-f]{2}))", re.I)  # JSON, JavaScript, C
# How people write an address so that no program makes a link of it: 192.0.2[.]1, name (at) example.
_DEFANGED = re.compile(rb"\s?[\[({]\s?(\.|dot|::?|@|at)\s?[\])}]\s?|\s(dot|at)\s", re.I)
_SIGNS = {b"dot": b".", b"at": b"@"}
# Characters that look the same to a reader, but not to NFKC: hyphens and dots of other scripts, and
# characters of no width.
_LOOK_ALIKE = {
    **dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0x2E3A, 0x2E3B), "-"),
    **dict.fromkeys((0x3002, 0xFF61, 0x2024, 0x00B7), "."),
    **dict.fromkeys((0x00AD, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF), ""),
}  # fmt: skip
_TEXT = bytes(range(0x20, 0x7F)) + b"\0\t\r\n"
_MAX_TOKENS = 64  # bounded, because a value may be very long
_LAYERS = 3  # encodings within one another that are removed
_MAX_FORMS = 32
_MAX_NESTED = 16_384  # octets: longer forms are not decoded again


def readings(value: bytes) -> Iterator[bytes]:
    """`value` itself, then each form of it with an encoding removed, also one within another.

    Encodings: folds, encoded words (RFC 2047), percent signs (RFC 3986 2.1), pieces of parameters
    (RFC 2231), entities, escapes, base64 and hexadecimal. At most _MAX_FORMS forms. Never raises.
    """
    done = {value}
    todo = [value]
    yield value
    for _ in range(_LAYERS):
        found: list[bytes] = []
        for outer in todo:
            if len(outer) > _MAX_NESTED and outer is not value:
                continue
            for inner in _without_one_layer(outer):
                if inner not in done and len(done) < _MAX_FORMS:
                    done.add(inner)
                    found.append(inner)
                    yield inner
        todo = found


def _without_one_layer(value: bytes) -> Iterator[bytes]:
    if b"\n" in value:
        yield _FOLD.sub(b"", value)
    if b"=?" in value:
        yield _ENCODED.sub(_decoded, value)
    if b"%" in value:
        yield unquote_to_bytes(value)
    if b"\\" in value:
        yield _PAIR.sub(rb"\1", value)
        yield _ESCAPE.sub(_escaped, value)
    if b"&" in value and b";" in value:
        yield html.unescape(value.decode("utf-8", "surrogateescape")).encode(
            "utf-8", "surrogateescape"
        )
    if b"*" in value and (whole := _joined(value)):
        yield whole
    if not value.isascii():
        yield _plain(value)
    if _DEFANGED.search(value):
        yield _DEFANGED.sub(_undone, value)
    found = b"\n".join(_unpacked(value))
    if found:
        yield found


def _escaped(match: re.Match[bytes]) -> bytes:
    return chr(int(match.group(1) or match.group(2), 16)).encode("utf-8", "surrogatepass")


def _undone(match: re.Match[bytes]) -> bytes:
    sign = (match.group(1) or match.group(2)).lower()
    return _SIGNS.get(sign, sign)


def _joined(value: bytes) -> bytes:
    """The parameters that are split into pieces, joined, each on a line of its own."""
    pieces: dict[bytes, list[tuple[int, bytes]]] = {}
    for match in _PIECE.finditer(value):
        name, number, coded, quoted, token = match.groups()
        text = token if quoted is None else quoted
        if coded:
            text = unquote_to_bytes(text.rpartition(b"'")[2] if number == b"0" else text)
        pieces.setdefault(name.lower(), []).append((int(number), text))
    return b"\n".join(b"".join(text for _, text in sorted(p)) for p in pieces.values())


def _plain(value: bytes) -> bytes:
    """`value` with letters, digits, hyphens and dots of other scripts replaced by those of ASCII
    that look the same.
    """
    text = value.decode("utf-8", "surrogateescape").translate(_LOOK_ALIKE)
    # Patterns of octets know the case of ASCII letters alone.
    text = text if text.isascii() else text.lower()
    return unicodedata.normalize("NFKC", text).encode("utf-8", "surrogateescape")


def _unpacked(value: bytes) -> Iterator[bytes]:
    for number, match in enumerate(_BASE64.finditer(_FOLD.sub(b"", value))):
        if number == _MAX_TOKENS:
            return
        token = match.group().translate(bytes.maketrans(b"-_", b"+/"))  # RFC 4648 5
        try:
            octets = binascii.a2b_base64(token + b"=" * (-len(token) % 4))
        except binascii.Error:
            continue
        # Only text: in a signature or a picture a short word may appear by chance.
        if not octets.translate(None, _TEXT):
            yield octets
    for number, match in enumerate(_HEX.finditer(value)):
        if number == _MAX_TOKENS:
            return
        yield binascii.unhexlify(match.group())


def _decoded(match: re.Match[bytes]) -> bytes:
    """An encoded word as UTF-8; its plain octets where the charset is not known."""
    charset, coding, text = match.groups()
    try:
        if coding in b"Qq":
            octets = binascii.a2b_qp(text, header=True)
        else:
            octets = binascii.a2b_base64(text + b"==")
    except binascii.Error:
        return b""
    try:
        return octets.decode(charset.decode("ascii")).encode()
    except (LookupError, ValueError):
        return octets
