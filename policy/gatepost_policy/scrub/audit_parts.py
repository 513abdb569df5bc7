"""Read the headers of MIME parts and attached messages for fields that tell about the sender.

Pure. gatepost never changes them (docs/privacy.md), so this only points them out.
"""

import re
from collections.abc import Iterator

_BOUNDARY = re.compile(rb"boundary=(?:\"([^\"]{1,200})\"|([^\s;\"]{1,200}))", re.I)
_FIELD = re.compile(rb"(Received|X-Mailer|User-Agent|X-Apple-[\w-]+|X-Originating-IP):(.*)", re.I)


def telling(message: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, value) of each telling field below the message's own header, each name once."""
    seen: set[str] = set()
    boundaries: set[bytes] = set()
    top, in_header, attached = True, True, False
    for line in message.split(b"\n"):
        line = line.rstrip()
        if not in_header:
            in_header = line.startswith(b"--") and line[2:] in boundaries
            continue
        if not line:
            # The header of an attached message follows the part's own.
            in_header, attached, top = attached, False, False
            continue
        for quoted, bare in _BOUNDARY.findall(line):
            boundaries.add(quoted or bare)
        attached = attached or line.lower().startswith(b"content-type: message/rfc822")
        match = None if top else _FIELD.match(line)
        if match and (name := match.group(1).decode()).lower() not in seen:
            seen.add(name.lower())
            yield name, match.group(2)
