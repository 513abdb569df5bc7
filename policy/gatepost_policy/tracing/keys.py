"""The keys of X-Gatepost-Trace: a pair for each week, made in advance and on another machine.

* The bundle goes to the mail host (`submission.trace_keys`): the public keys, and the secret for
  the MAC by which the host marks its tokens. It cannot open a token.
* The directory stays where tokens are resolved: the private keys, one file for each week, the same
  secret, and `audit.log`. `forget` overwrites and removes files; copies, and what the disk itself
  still holds, are not destroyed.
"""

import base64
import binascii
import datetime
import os
import secrets
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from nacl.public import PrivateKey, PublicKey

WEEK_S = 7 * 86_400
_MONDAY = 4 * 86_400  # 1970-01-05, the first Monday of Unix time
HEAD = "gatepost-trace-keys v1"
MAC_FILE = "mac.key"
AUDIT_FILE = "audit.log"
MAX_WEEKS = 520


class TraceKeyError(Exception):
    """Keys cannot be read or written. The text is one line that names the file and what was
    wanted.
    """


def monday(at: float) -> int:
    """The Unix time at which the week of `at` (Unix seconds) began, Monday 00:00 UTC."""
    return int((at - _MONDAY) // WEEK_S * WEEK_S + _MONDAY)


def _day(at: int) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d")


def _name(public: bytes) -> str:
    """The name of a key in tokens: 16 hexadecimal digits of a hash of the public key."""
    return blake2b(public, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """What the mail host has. `weeks`: the Monday (Unix seconds) -> (name, public key)."""

    mac_key: bytes
    weeks: dict[int, tuple[str, PublicKey]]

    @classmethod
    def read(cls, path: Path) -> "Bundle":
        """The bundle in `path`. Raises TraceKeyError."""
        try:
            lines = path.read_text("ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not a bundle"
            raise TraceKeyError(f"{path}: {why}; make one with milterctl trace keygen") from None
        if not lines or lines[0] != HEAD:
            raise TraceKeyError(f"{path}:1: want {HEAD!r}, as milterctl trace keygen writes it")
        mac_key, weeks = b"", {}
        for number, line in enumerate(lines[1:], start=2):
            words = line.split()
            try:
                if words[:1] == ["mac"] and len(words) == 2:
                    mac_key = _decoded(words[1])
                elif words:
                    day, name, text = words
                    at = datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()
                    public = _decoded(text)
                    if monday(at) != at or _name(public) != name:
                        raise ValueError
                    weeks[int(at)] = (name, PublicKey(public))
            except ValueError:
                raise TraceKeyError(f"{path}:{number}: want `Monday name key`") from None
        if not mac_key:
            raise TraceKeyError(f"{path}: the line `mac ...` is missing")
        return cls(mac_key, weeks)

    def at(self, at: float) -> tuple[str, PublicKey] | None:
        """(name, public key) of the week of `at`; None where there is none."""
        return self.weeks.get(monday(at))


def _decoded(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if len(raw) != 32:
        raise ValueError
    return raw


def make_keys(directory: Path, bundle: Path, weeks: int, start: float) -> int:
    """Make keys for `weeks` weeks from that of `start` (Unix seconds) on, and write the bundle
    anew.

    A week that has a key keeps it. Returns the number of new keys. Raises TraceKeyError.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mac_path = directory / MAC_FILE
        if not mac_path.exists():
            _write(mac_path, base64.b64encode(secrets.token_bytes(32)) + b"\n")
        have = {path.name[:10] for path in directory.glob("*.key")}
        made = 0
        for week in range(weeks):
            day = _day(monday(start) + week * WEEK_S)
            if day in have:
                continue
            private = PrivateKey.generate()
            name = _name(bytes(private.public_key))
            _write(directory / f"{day}-{name}.key", base64.b64encode(bytes(private)) + b"\n")
            made += 1
        lines = [HEAD, f"mac {mac_path.read_text('ascii').strip()}"]
        for path in sorted(directory.glob("????-??-??-*.key")):
            public = bytes(_private(path).public_key)
            lines.append(f"{path.name[:10]} {_name(public)} {base64.b64encode(public).decode()}")
        aside = bundle.with_name(f"{bundle.name}.new")
        aside.unlink(missing_ok=True)
        _write(aside, "\n".join(lines).encode() + b"\n")
        aside.replace(bundle)
    except OSError as error:
        raise TraceKeyError(f"{error.filename or directory}: {error.strerror}") from None
    return made


def _write(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read. Raises FileExistsError, OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _private(path: Path) -> PrivateKey:
    try:
        return PrivateKey(_decoded(path.read_text("ascii").strip()))
    except (ValueError, binascii.Error):
        raise TraceKeyError(f"{path}: not a private key of milterctl trace keygen") from None
    except OSError as error:
        raise TraceKeyError(f"{path}: {error.strerror}") from None


class Keyring:
    """The directory with the private keys. Raises TraceKeyError where it is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self.mac_key = _decoded((directory / MAC_FILE).read_text("ascii").strip())
        except OSError as error:
            raise TraceKeyError(
                f"{directory / MAC_FILE}: {error.strerror}; name the directory of "
                "milterctl trace keygen with --keys"
            ) from None
        except ValueError:
            raise TraceKeyError(f"{directory / MAC_FILE}: not a key of keygen") from None

    def private(self, name: str) -> PrivateKey | None:
        """The private key `name` of a token; None where it was destroyed or never here. Raises
        TraceKeyError where its file is damaged.
        """
        found = next(iter(self.directory.glob(f"????-??-??-{name}.key")), None)
        return None if found is None else _private(found)

    def forget(self, before: float) -> list[str]:
        """Destroy the keys of all weeks that had ended at `before` (Unix seconds); returns the
        names of their files. Raises TraceKeyError.
        """
        gone = []
        for path in sorted(self.directory.glob("????-??-??-*.key")):
            begun = datetime.datetime.fromisoformat(f"{path.name[:10]}T00:00:00+00:00")
            if begun.timestamp() + WEEK_S > before:
                continue
            try:
                with path.open("r+b") as file:
                    size = os.fstat(file.fileno()).st_size
                    file.write(b"\0" * size)
                    file.flush()
                    os.fsync(file.fileno())
                path.unlink()
            except OSError as error:
                raise TraceKeyError(f"{path}: {error.strerror}") from None
            gone.append(path.name)
        return gone

    def audit(self, line: str) -> None:
        """Append `line` to audit.log; it is on the disk before an account is shown. Raises
        TraceKeyError.
        """
        path = self.directory / AUDIT_FILE
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "ab") as file:
                file.write(line.encode("ascii", "backslashreplace") + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise TraceKeyError(f"{path}: {error.strerror}: nothing is told without it") from None
