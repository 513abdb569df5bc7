"""What a printed page can be held to: a hash of the messages that it lists, and how to compute it.

It is the SHA-256 of these messages as CSV, octet for octet what `milterctl report --format csv` and
the page's own `.csv` give. It changes where what is known of them does: when retention shortens an
address, when a recipient becomes a trap.
"""

import hashlib
import io
import math
import shlex
from dataclasses import dataclass

from gatepost_policy.render import csv_file
from gatepost_policy.report.report import Report
from gatepost_policy.text.times import timestamp

# Selectors that are options of the command; a host name or a queue id is none.
OPTIONS = (
    "sender", "host", "trap", "since", "until", "family", "dkim", "spf", "dmarc", "decision",
    "reason", "source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowsHash:
    """`command` prints the same rows; None: no command does."""

    messages: int
    sha256: str
    command: str | None


def of(report: Report, made: float, skipped: int = 0) -> RowsHash | None:
    """The hash of the messages of `report` as of `made` (Unix seconds); None where it lists none.

    `skipped`: newer messages that are selected and not listed.
    """
    if not report.messages:
        return None
    out = io.StringIO(newline="")
    csv_file.write(report, out)
    digest = hashlib.sha256(out.getvalue().encode("utf-8", "backslashreplace")).hexdigest()
    return RowsHash(len(report.messages), digest, None if skipped else _command(report, made))


def _command(report: Report, made: float) -> str | None:
    # Without an end the next message would be among them.
    query = {"until": timestamp(math.ceil(made)), **report.query}
    if not set(query) <= set(OPTIONS):
        return None
    words = ["milterctl", "report"]
    for name in OPTIONS:
        if name in query:
            # With = in it, because a value may begin with a dash.
            words.append(f"--{name}={query[name]}")
    words += ["--limit", str(len(report.messages)), "--format", "csv"]
    return f"{shlex.join(words)} | sha256sum"
