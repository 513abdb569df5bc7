"""Cut a byte stream into policy requests: Postfix's delegation protocol, Exim's one-line form.

Pure; docs/policy-protocol.md is the specification. `Reader.feed` takes bytes as they come and
yields complete requests. A complete request that is wrong in some way has `doubt` set. A line that
is no attribute (another protocol, such as `POST / HTTP/1.1`), and a line or request over the
limit, raise ProtocolError; then the connection must be closed, or the body of an HTTP request
would be read as policy requests. No other exception is raised.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

MAX_LINES = 200  # Postfix 3.10 sends some 40
# Names of attributes, Postfix's and ours. No blank is allowed: so an HTTP request line is no
# attribute, even if its URL holds `=`.
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_.]{0,99}")
_EXIM = b"exim "
# Names that were checked already, to save time. Bounded, because a client may invent names.
_NAMES_MAX = 500
_names: set[bytes] = set()
_texts: set[str] = set()  # the same, as text
# Postfix's requests begin so. One that comes in a single piece is read quickly (`_whole`), unless
# it holds one of _UNUSUAL; others are read line by line.
_BEGINS, _UNUSUAL = b"request=smtpd_access_policy\n", (b"\0", b"\r", b"\nb64.")


class ProtocolError(Exception):
    """The stream cannot be followed any further: answer "no opinion" once and close."""


class Form(StrEnum):
    """Which of the two protocols a request came in."""

    POSTFIX = "postfix"
    EXIM = "exim"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `values`: its attributes by name; `doubt`: what is wrong with it, None if
    nothing is."""

    form: Form
    values: dict[str, str] = field(default_factory=dict)
    doubt: str | None = None

    def get(self, name: str) -> str:
        """The value of `name`, '' where it was not sent."""
        return self.values.get(name, "")


class Reader:
    """Cuts a byte stream into requests. `max_bytes`: most octets of one request, unfinished too."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._buffer = b""
        self._lines: list[tuple[bytes, bytes]] = []  # name, value
        self._bytes = 0
        self._empty = 0  # empty lines since the last one that was none

    @property
    def idle(self) -> bool:
        """True between two requests."""
        return not self._buffer and not self._lines

    def feed(self, data: bytes) -> Iterator[Request]:
        """The requests that `data` completes.

        Raises ProtocolError beyond the limits and for a line that is no attribute.
        """
        if not self._buffer and not self._lines and data.startswith(_BEGINS):
            whole = self._whole(data)
            if whole is not None:
                yield whole
                return
        buffer = self._buffer + data if self._buffer else data
        start = 0
        while (end := buffer.find(b"\n", start)) >= 0:
            line = buffer[start:end]
            start = end + 1
            if line.endswith(b"\r"):
                line = line[:-1]
            if line:
                self._empty = 0
                if not self._lines and line.startswith(_EXIM):
                    if len(line) > self._max:
                        raise ProtocolError("request too long")
                    self._buffer = buffer[start:]
                    yield _exim(line)
                    continue
                name, equals, value = line.partition(b"=")
                if not equals or not _is_name(name):
                    raise ProtocolError("a line that is no attribute")
                self._lines.append((name, value))
                self._bytes += len(line) + 1
                if self._bytes > self._max or len(self._lines) > MAX_LINES:
                    raise ProtocolError("request too long")
            elif self._lines:
                lines, self._lines, self._bytes = self._lines, [], 0
                self._buffer = buffer[start:]
                yield _postfix(lines)
            else:
                # An empty line between two requests asks nothing, but many are work.
                self._empty += 1
                if self._empty > MAX_LINES:
                    raise ProtocolError("nothing but empty lines")
        self._buffer = buffer[start:]
        if len(self._buffer) + self._bytes > self._max:
            raise ProtocolError("request too long")

    def _whole(self, data: bytes) -> Request | None:
        """`data` as one usual request; None where it must be read line by line."""
        if data.find(b"\n\n") != len(data) - 2 or len(data) - 1 > self._max:
            return None
        for octets in _UNUSUAL:
            if octets in data:
                return None
        lines = data[:-2].decode("utf-8", "surrogateescape").split("\n")
        pairs = [line.partition("=") for line in lines]
        # A line without "=", or a name twice, leaves fewer values than lines.
        values = {name: value for name, equals, value in pairs if equals}
        if len(values) != len(lines) or len(lines) > MAX_LINES or not values.keys() <= _texts:
            return None
        return Request(Form.POSTFIX, values)


def _is_name(name: bytes) -> bool:
    """True where `name` is a valid name of an attribute."""
    if name in _names:
        return True
    if _NAME.fullmatch(name) is None:
        return False
    if len(_names) < _NAMES_MAX:
        _names.add(name)
        _texts.add(name.decode("ascii"))
    return True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _attribute(name: bytes, value: bytes, values: dict[str, str]) -> str | None:
    """Put one attribute into `values`; returns what is wrong with it, or None."""
    if name.startswith(b"b64."):
        name = name[4:]
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return "broken base64"
    if b"\0" in name or b"\0" in value:
        return "a NUL"
    key, text = _text(name), _text(value)
    return "an attribute twice" if values.setdefault(key, text) != text else None


def _postfix(lines: list[tuple[bytes, bytes]]) -> Request:
    values: dict[str, str] = {}
    doubt: str | None = None
    for name, value in lines:
        doubt = _attribute(name, value, values) or doubt
    if doubt is None and values.get("request") != "smtpd_access_policy":
        doubt = "another kind of request"
    return Request(Form.POSTFIX, values, doubt)


def _exim(line: bytes) -> Request:
    values: dict[str, str] = {}
    doubt: str | None = None
    for word in line.split(b" ")[1:]:
        if not word:
            continue
        # The first `=` ends the name; base64 padding comes later.
        name, equals, value = word.partition(b"=")
        if not equals or not _is_name(name):
            raise ProtocolError("a word that is no attribute")
        doubt = _attribute(name, value, values) or doubt
    if doubt is None and values.get("stage") not in ("rcpt", "dkim", "data"):
        doubt = "another stage"
    return Request(Form.EXIM, values, doubt)
