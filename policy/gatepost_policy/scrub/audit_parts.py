"""Read MIME parts and attached messages for fields that reveal something about the sender.

Pure. gatepost never changes them (docs/privacy.md), so they are only reported: header fields of
parts and attached messages, and in calendars and disposition notifications (RFC 8098) the names of
the program and of the time zone.
"""

import binascii
import quopri
import re
from collections.abc import Iterator

_BOUNDARY = re.compile(rb"boundary=(?:\"([^\"]{1,200})\"|([^\s;\"]{1,200}))", re.I)
_FIELD = re.compile(rb"(Received|X-Mailer|User-Agent|X-Apple-[\w-]+|X-Originating-IP):(.*)", re.I)
# Calendars and address cards, as programs call them, or a file with such a name.
_TYPE = re.compile(
    rb"content-type:\s*(?:text/(?:x-)?v?calendar|application/ics|text/(?:x-)?vcard|text/directory"
    rb"|message/disposition-notification)\b|.*\b(?:file)?name\*?0?\*?=[^;\r\n]*\.(?:ics|ifb|vcs|vcf)\b",
    re.I,
)
_FOLD = re.compile(rb"\n[ \t]")  # RFC 5545 3.1, RFC 6350 3.2
_ENCODING = re.compile(rb"content-transfer-encoding:\s*(base64|quoted-printable)", re.I)
# RFC 5545 3.2.19 and 3.7.3: TZID is a parameter of a date, and a property of its own.
_CONTENT = re.compile(
    rb"^(Reporting-UA|PRODID|X-WR-TIMEZONE|TZ)[:;](.*)|(?:^|;)(TZID)[=:]([^:;\r\n]*)", re.I | re.M
)


def telling(message: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, value) of each such field below the message's own header, each name once. Never
    raises.
    """
    seen: set[str] = set()
    boundaries: set[bytes] = set()
    top, in_header, attached = True, True, False
    structured, encoding = False, b""
    body: list[bytes] = []
    for line in (*message.split(b"\n"), b""):
        line = line.rstrip()
        if not in_header:
            in_header = line.startswith(b"--") and line[2:].removesuffix(b"--") in boundaries
            if not in_header:
                if structured:
                    body.append(line)
                continue
            yield from _content(body, encoding, seen)
            structured, encoding, body = False, b"", []
            continue
        if not line:
            # After the header of such a part comes that of the attached message.
            in_header, attached, top = attached, False, False
            continue
        for quoted, bare in _BOUNDARY.findall(line):
            boundaries.add(quoted or bare)
        attached = attached or line.lower().startswith(b"content-type: message/rfc822")
        structured = structured or _TYPE.match(line) is not None
        if coded := _ENCODING.match(line):
            encoding = coded.group(1).lower()
        match = None if top else _FIELD.match(line)
        if match and (name := match.group(1).decode()).lower() not in seen:
            seen.add(name.lower())
            yield name, match.group(2)
    yield from _content(body, encoding, seen)


def _content(lines: list[bytes], encoding: bytes, seen: set[str]) -> Iterator[tuple[str, bytes]]:
    text = b"\n".join(lines)
    try:
        if encoding == b"base64":
            text = binascii.a2b_base64(text)
        elif encoding:
            text = quopri.decodestring(text)
    except binascii.Error:
        return
    for match in _CONTENT.finditer(_FOLD.sub(b"", text.replace(b"\r\n", b"\n"))):
        name = (match.group(1) or match.group(3)).decode()
        if name.lower() not in seen:
            seen.add(name.lower())
            yield name, match.group(2) or match.group(4) or b""
