"""A message in Postfix's queue: physical header list, body, and the edits a milter may ask for.

Behaves like cleanup(8): our own `Received` stands on top and is hidden from milters, header
edits count without it, inserts count with it. Both versions of the hiding rule are here, because
the scrub, which replaces our own field, must work with both:

* up to 3.7.10 (`HIDE_FIRST`): the first header field, whatever it is, cannot be changed;
* from 3.7.11 (`HIDE_PREFIX`): the first field whose first line is a prefix of the own one.

Pure: bytes in, bytes out.

Limits: Date, Message-ID and From are not completed (clients in local_header_rewrite_clients);
Return-Path, Bcc, Resent-Bcc and Content-Length are kept unless `drop` names them
(message_drop_headers; `POSTFIX_DROP` is its default), so that a saved message replays as it is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gatepost_policy.mail.decision import Edit

HIDE_FIRST = "3.7.10"
HIDE_PREFIX = "3.7.11"
# cleanup_message.c KLUDGE_HEADER_LIMIT: longer fields are cut when milters are in use.
MAX_FIELD_BYTES = 60_000
POSTFIX_DROP = ("bcc", "content-length", "resent-bcc", "return-path")

# is_header.c: printable ASCII but space and colon, then blanks, then a colon.
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_MBOX_LINE = re.compile(rb">*From ")


def crlf(message: bytes) -> bytes:
    """`message` with bare LF made CRLF; a bare CR stays, a missing last line end is added."""
    message = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return message if message.endswith(b"\r\n") or not message else message + b"\r\n"


@dataclass(frozen=True, slots=True)
class Field:
    """One header field; `value` follows the colon as it is, lines joined by LF alone."""

    name: bytes
    value: bytes

    @property
    def text(self) -> bytes:
        """The field as the queue file holds it, without its last line end."""
        return self.name + b":" + self.value

    @property
    def label(self) -> bytes:
        """The name as it is compared."""
        return self.name.lower()


def parse(message: bytes, drop: Sequence[str] = ()) -> tuple[list[Field], bytes]:
    """Split a CRLF message into fields and body, as smtpd(8) and cleanup(8) do.

    A line that is no field ends the header and starts the body (an empty one is swallowed).
    """
    dropped = {name.encode() for name in drop}
    fields: list[list[bytes]] = []
    position = 0
    while position < len(message):
        end = message.find(b"\r\n", position)
        end = len(message) if end < 0 else end
        line = message[position:end]
        if not fields and _MBOX_LINE.match(line):
            # smtpd_data_cmd: a mailbox separator becomes a field, it is never lost.
            fields.append([b"X-Mailbox-Line", b" " + line])
        elif fields and line[:1] in (b" ", b"\t"):
            fields[-1].append(line)
        else:
            found = _FIELD.match(line)
            if not found or b"\0" in found.group():
                body = end + 2 if not line else position
                return _fields(fields, dropped), message[body:]
            # Postfix makes "Name :" into "Name:".
            fields.append([found.group(1), line[found.end() :]])
        position = end + 2
    return _fields(fields, dropped), b""


def _fields(gathered: list[list[bytes]], dropped: set[bytes]) -> list[Field]:
    out = []
    for name, *lines in gathered:
        # The header is a C string in cleanup(8): a NUL ends it, continuation lines included.
        value = b"\n".join(lines).partition(b"\0")[0]
        room = max(0, MAX_FIELD_BYTES - len(name) - 1)
        if len(value) > room:
            value = value[:room].rstrip(b" \t\n")  # a cut in a fold leaves no blank line
        if name.lower() not in dropped:
            out.append(Field(name, value))
    return out


@dataclass(slots=True)
class QueueFile:
    """The message as the MTA keeps it while milters look at it. `fields[0]` is our own."""

    own: Field
    fields: list[Field]
    body: bytes
    hiding: str = HIDE_PREFIX
    edits: list[Edit] = field(default_factory=list)

    @classmethod
    def receive(
        cls,
        message: bytes,
        own: Field,
        hiding: str = HIDE_PREFIX,
        drop: Sequence[str] = (),
    ) -> "QueueFile":
        """Take a CRLF message from the wire and put our own Received on top."""
        fields, body = parse(message, drop)
        return cls(own, [own, *fields], body, hiding)

    def visible(self) -> Iterator[Field]:
        """What the milter's header callbacks get: all but our own."""
        return (f for f in self.fields if f is not self.own)

    def content(self) -> bytes:
        """The message as it would be delivered, with CRLF."""
        head = b"".join(f.text.replace(b"\n", b"\r\n") + b"\r\n" for f in self.fields)
        return head + b"\r\n" + self.body

    def change(self, name: bytes, index: int, value: bytes) -> None:
        """SMFIR_CHGHEADER. Where there is no such field, a new value is appended, and a deletion
        does nothing."""
        index = max(index, 1)  # Sendmail compatibility: 0 means 1
        at = self._find(name.lower(), index)
        if not value:
            self.edits.append(Edit("delete", _text(name), index))
            if at is not None:
                del self.fields[at]
            return
        self.edits.append(Edit("change", _text(name), index, _text(value)))
        self._put(at, Field(name, value), replace=True)

    def insert(self, index: int, name: bytes, value: bytes) -> None:
        """SMFIR_INSHEADER: `index` counts every physical field from 0, our own included."""
        self.edits.append(Edit("insert", _text(name), index, _text(value)))
        self._put(index if index < len(self.fields) else None, Field(name, value))

    def append(self, name: bytes, value: bytes) -> None:
        """SMFIR_ADDHEADER: below the last field."""
        self.edits.append(Edit("insert", _text(name), len(self.fields), _text(value)))
        self._put(None, Field(name, value))

    def _put(self, at: int | None, new: Field, replace: bool = False) -> None:
        new = Field(new.name, _written(new.value))
        if at is None:
            self.fields.append(new)
        elif replace:
            self.fields[at] = new
        else:
            self.fields.insert(at, new)

    def _find(self, label: bytes, index: int) -> int | None:
        """The place of the `index`th visible field of this name, None where there is none."""
        hidden = False
        for place, entry in enumerate(self.fields):
            if self.hiding == HIDE_FIRST and place == 0:
                continue
            if entry.label != label:
                continue
            if self.hiding != HIDE_FIRST and not hidden and self._hides(entry):
                hidden = True
                continue
            index -= 1
            if index == 0:
                return place
        return None

    def _hides(self, entry: Field) -> bool:
        # cleanup_milter.c hidden_header(): strncmp over the length of the first record only.
        return self.own.text.startswith(entry.text.partition(b"\n")[0])


def _written(value: bytes) -> bytes:
    """A value as cleanup_out_header writes it: every line but the first starts with a blank."""
    first, *rest = value.split(b"\n")
    return b"\n".join([first, *(r if r[:1] in (b" ", b"\t") else b"\t" + r for r in rest)])


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
