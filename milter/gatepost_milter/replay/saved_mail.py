"""Find saved messages and read them as they were sent: .eml, mbox, Maildir, directories, gzip.

A directory means every regular file below it, whatever its name; a file that starts with an mbox
separator line means every message in it. A file's name matters only for its sidecar: `X.json`
beside `X.eml` holds envelope, client, DNS answers and time of that message.

A file that cannot be read is an `Item` with an error, never an exception. Bytes are given as they
are in the file, except for a UTF-8 byte-order mark, the mbox separator and its `>From ` quoting;
line ends are changed later (`queue_file.crlf`).

Limits: a message of MAX_MESSAGE_BYTES, an mbox in gzip of MAX_UNPACKED_BYTES; a link to a
directory is not followed.
"""

import gzip
import io
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gatepost_milter.replay.sidecar import problem as problem_in

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_UNPACKED_BYTES = 4 * 1024 * 1024 * 1024
MAX_SIDECAR_BYTES = 16 * 1024 * 1024
BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"

# "From sender Tue Oct  1 10:36:56 2002": without a time of day it is a sentence of the body.
_SEPARATOR = re.compile(rb"From (\S*) .*\d\d?:\d\d(?::\d\d)?\b.*\Z", re.S)
_QUOTED = re.compile(rb">+From ")


@dataclass(frozen=True, slots=True)
class Item:
    """One message, or the error that prevented reading it. `file`: the path, in an mbox with the
    number of the message (`path#3`)."""

    file: str
    data: bytes = b""
    error: str | None = None
    mbox_sender: str | None = None  # from the separator line
    sidecar: dict[str, Any] | None = None


def find(paths: Sequence[str]) -> list[str]:
    """Every file to read for `paths`, in order; directories give theirs sorted.

    A sidecar is left out where its message is there. A path that does not exist stays in the
    list: `read` gives the error.
    """
    out: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            out.extend(_below(path))
        else:
            out.append(path)
    return out


def _below(top: str) -> Iterator[str]:
    # os.walk counts a link to a directory as a directory and does not go down.
    for directory, subdirectories, names in os.walk(top):
        subdirectories.sort()
        present = set(names)
        for name in sorted(names):
            if name.endswith(".json") and _has_message(name[:-5], present):
                continue
            path = os.path.join(directory, name)
            if _worth_reading(path):
                yield path


def _has_message(stem: str, present: set[str]) -> bool:
    return f"{stem}.eml" in present or f"{stem}.eml.gz" in present


def _worth_reading(path: str) -> bool:
    """True for a regular file, and for one without access: `read` then gives the error."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def read(path: str) -> Iterator[Item]:
    """The messages of one file, or one `Item` that says why it cannot be read."""
    try:
        # A FIFO or a device would block, or never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            yield Item(path, error="not a regular file")
            return
        with open(path, "rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield from _messages(path, io.BufferedReader(unpacked), MAX_UNPACKED_BYTES)
            else:
                yield from _messages(path, raw, None)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield Item(path, error=f"damaged gzip: {error}")
    except OSError as error:
        yield Item(path, error=error.strerror or str(error))


def _messages(path: str, file: BinaryIO, total: int | None) -> Iterator[Item]:
    head = file.readline(65536)
    if head.startswith(BOM):
        head = head[len(BOM) :]
    if _SEPARATOR.match(head.rstrip(b"\r\n")):
        yield from _mbox(path, head, file, total)
        return
    data = head + file.read(MAX_MESSAGE_BYTES - len(head) + 1)
    if len(data) > MAX_MESSAGE_BYTES:
        yield Item(path, error=f"larger than {MAX_MESSAGE_BYTES >> 20} MiB")
        return
    sidecar, problem = _sidecar(path)
    if problem:
        yield Item(path, error=problem)
    else:
        yield Item(path, data, sidecar=sidecar)


def _mbox(path: str, head: bytes, file: BinaryIO, total: int | None) -> Iterator[Item]:
    number, separator, lines, size, seen = 1, head, list[bytes](), 0, len(head)
    blank = False
    while line := file.readline(1 << 20):
        seen += len(line)
        if total is not None and seen > total:
            yield Item(f"{path}#{number}", error=f"unpacks to more than {total >> 20} MiB")
            return
        if blank and line.startswith(b"From ") and _SEPARATOR.match(line.rstrip(b"\r\n")):
            yield _one(path, number, separator, lines, size)
            number, separator, lines, size = number + 1, line, [], 0
        elif (size := size + len(line)) <= MAX_MESSAGE_BYTES:
            lines.append(line[1:] if _QUOTED.match(line) else line)
        blank = line in (b"\n", b"\r\n")
    # A single message in mbox form gets the file's name, without a number.
    yield _one(path, number if number > 1 else 0, separator, lines, size)


def _one(path: str, number: int, separator: bytes, lines: list[bytes], size: int) -> Item:
    name = f"{path}#{number}" if number else path
    if size > MAX_MESSAGE_BYTES:
        return Item(name, error=f"larger than {MAX_MESSAGE_BYTES >> 20} MiB")
    # The empty line before the next separator belongs to the mbox, not to the message.
    if len(lines) > 1 and lines[-1] in (b"\n", b"\r\n"):
        lines.pop()
    match = _SEPARATOR.match(separator.rstrip(b"\r\n"))
    sender = match.group(1).decode("utf-8", "surrogateescape") if match else ""
    return Item(name, b"".join(lines), mbox_sender=sender or None)


def _sidecar(path: str) -> tuple[dict[str, Any] | None, str | None]:
    """(content, None), (None, None) without a sidecar, (None, problem) for one that is broken."""
    stem = path.removesuffix(".gz").removesuffix(".eml")
    if stem in (path, path.removesuffix(".gz")):
        return None, None
    file = Path(f"{stem}.json")
    try:
        if file.stat().st_size > MAX_SIDECAR_BYTES:
            return None, f"sidecar {file.name}: larger than {MAX_SIDECAR_BYTES >> 20} MiB"
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"sidecar {file.name}: {error.strerror or error}"
    except (ValueError, RecursionError) as error:
        return None, f"sidecar {file.name}: no JSON: {error}"
    if not isinstance(content, dict):
        return None, f"sidecar {file.name}: want a JSON object"
    wrong = problem_in(content)
    return (content, None) if wrong is None else (None, f"sidecar {file.name}: {wrong}")
