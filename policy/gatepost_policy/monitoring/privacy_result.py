"""The result of the last `milterctl privacy test --record`, kept for the metrics.

One small file in the state directory. The test may run as root while the services' user owns the
directory and could put links there. So the file is made under a new name and then renamed.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from gatepost_policy.system.dataclass import dataclass

NAME = "privacy-test.json"
MAX_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Result:
    """`at`: Unix seconds. `clean`: way -> whether a probe came through it without a leak; a way
    that was not tried is not clean."""

    at: float
    clean: Mapping[str, bool]


def write(state: Path, result: Result) -> None:
    """Write a result. Raises OSError."""
    new = state / f".{NAME}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(new, flags, 0o640)
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump({"at": result.at, "clean": dict(result.clean)}, stream)
        os.replace(new, state / NAME)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def read(state: Path) -> Result | None:
    """The last result; None where there is none, or none that can be read."""
    try:
        with open(state / NAME, "rb") as stream:
            found = json.loads(stream.read(MAX_BYTES))
        return Result(
            float(found["at"]), {str(k): bool(v) for k, v in dict(found["clean"]).items()}
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
