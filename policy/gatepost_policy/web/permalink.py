"""What a permalink and its filters select. Pure."""

from collections.abc import Mapping

from gatepost_policy.mail import address
from gatepost_policy.mail.address import canonical_domain
from gatepost_policy.report import filters, selection
from gatepost_policy.report.selection import Selection

LIMIT, LIMIT_OVERVIEW, LIMIT_MAX = 50, 25, 1000


def read(
    kind: str | None, value: str, given: Mapping[str, str], now: float
) -> tuple[Selection, int]:
    """(the selection of a page about `value`, how many of its newest messages to skip).

    `kind`: sender, host, trap or name; None: the overview. `given`: the query of the URL. `now`:
    Unix seconds. The selection's limit is that of the list plus what is skipped. Raises ValueError.
    """
    limit = _number(given, "limit", 1) or (LIMIT if kind else LIMIT_OVERVIEW)
    skip = _number(given, "skip", 0) or 0
    if limit + skip > LIMIT_MAX:
        raise ValueError(f"limit and skip: want {LIMIT_MAX} together, at most")
    wanted = {name: text for name, text in given.items() if (name, kind) != ("trap", "trap")}
    chosen = Selection(
        sender=selection.sender(value) if kind == "sender" else None,
        host=selection.host(value) if kind == "host" else None,
        trap=address.parse(value) if kind == "trap" else None,
        name=canonical_domain(value) if kind == "name" else None,
        limit=limit + skip,
    )
    return filters.read(wanted, now, chosen), skip


def _number(given: Mapping[str, str], name: str, least: int) -> int | None:
    """A number of the query. Raises ValueError."""
    text = given.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or not least <= int(text) <= LIMIT_MAX:
        raise ValueError(f"{name}: want a number from {least} to {LIMIT_MAX}")
    return int(text)
