"""What a reader may make of a header field's value: every layer that a program undoes. Pure.

A name in base64 is as good as the name. So a value is searched as it stands and in each form that
comes out where a layer is taken off.
"""

import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

# RFC 5322 2.2.3; RFC 2047 2 and, for the language behind the charset, RFC 2231 5.
_FOLD = re.compile(rb"\r?\n[ \t]+")
_ENCODED = re.compile(
    rb"=\?([^?*\s]{1,80})(?:\*[^?\s]{0,20})?\?([BQ])\?([^?\s]*)\?=(?:\s+(?==\?))?", re.I
)
_PAIR = re.compile(rb"\\(.)", re.S)  # RFC 5322 3.2.1
_BASE64 = re.compile(rb"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{6,400}(?![A-Za-z0-9+/_-])")
_TEXT = bytes(range(0x20, 0x7F)) + b"\0\t\r\n"
_MAX_TOKENS = 64  # a value is as long as its writer likes


def readings(value: bytes) -> Iterator[bytes]:
    """`value`, and what is left of it without folds, encoded words (RFC 2047), percent signs
    (RFC 3986 2.1), quoted pairs and base64."""
    yield value
    if b"\n" in value:
        yield _FOLD.sub(b"", value)
    if b"=?" in value:
        yield _ENCODED.sub(_decoded, value)
    if b"%" in value:
        yield unquote_to_bytes(value)
    if b"\\" in value:
        yield _PAIR.sub(rb"\1", value)
    found = b"\n".join(_unpacked(value))
    if found:
        yield found


def _unpacked(value: bytes) -> Iterator[bytes]:
    for number, match in enumerate(_BASE64.finditer(_FOLD.sub(b"", value))):
        if number == _MAX_TOKENS:
            return
        token = match.group().translate(bytes.maketrans(b"-_", b"+/"))  # RFC 4648 5
        try:
            octets = binascii.a2b_base64(token + b"=" * (-len(token) % 4))
        except binascii.Error:
            continue
        # In a signature or a picture any short word comes up by chance.
        if not octets.translate(None, _TEXT):
            yield octets


def _decoded(match: re.Match[bytes]) -> bytes:
    """An encoded word as UTF-8; as it is where its charset is none that is known."""
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
