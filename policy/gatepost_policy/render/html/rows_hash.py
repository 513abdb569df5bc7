"""A hash of the messages that a page lists, and the command that computes it again.

With it a printed page can be compared with the store later. It is the SHA-256 of these messages as
CSV, octet for octet what `milterctl report --format csv` and the page's own `.csv` give. It also
changes when the store changes what it has of these messages: when retention shortens an address,
or when a recipient becomes a trap.
"""

import hashlib
import io
import math
import shlex

from gatepost_policy.render import csv_file
from gatepost_policy.report.report import Report
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.times import timestamp

# The selectors that are options of `milterctl report`. A client's host name is not one of them.
OPTIONS = (
    "sender", "host", "trap", "since", "until", "family", "dkim", "spf", "dmarc", "decision",
    "reason", "source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowsHash:
    """The hash in hexadecimal digits, over so many messages. `command` computes it again; None:
    no command prints the same rows."""

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
    # Without --until the command would also print messages that came after the page was made.
    query = {"until": timestamp(math.ceil(made)), **report.query}
    if not set(query) <= set(OPTIONS):
        return None
    words = ["milterctl", "report"]
    for name in OPTIONS:
        if name in query:
            # --name=VALUE in one word, because a value may begin with a hyphen.
            words.append(f"--{name}={query[name]}")
    words += ["--limit", str(len(report.messages)), "--format", "csv"]
    return f"{shlex.join(words)} | sha256sum"
