"""For Postfix: cidr_table(5) files of listed clients, and the tables that let it accept mail for
traps."""

import re
from collections.abc import Iterator, Sequence

from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters.entry import Blocked
from gatepost_policy.mail.decision import REFUSED, TRY_LATER
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp
from gatepost_policy.traps import Trap

# An address that can be the key of an indexed or texthash table: without blanks or quotes, and
# without # at its beginning, where it would start a comment.
_KEY = re.compile(r"[^\s#\"\\(),:;<>\[\]][^\s\"\\(),:;<>\[\]]*@[^\s@]+\Z")


def cidr_lines(blocked: Sequence[Blocked], now: float, settings: Settings) -> Iterator[str]:
    """`check_client_access cidr:FILE`; the comment above each line gives the evidence. `now`: Unix
    seconds; the reply is that of `settings.sender.action`."""
    reply = REFUSED if settings.sender.action == "reject" else TRY_LATER
    yield f"# gatepost: {plural(len(blocked), 'listing')}, {timestamp(now)}"
    for one in blocked:
        yield f"# until {one.until}: {one.evidence()}"
        yield f"{one.network}\t{reply}"


def postscreen_lines(blocked: Sequence[Blocked], now: float, settings: Settings) -> Iterator[str]:
    """`postscreen_access_list = permit_mynetworks, cidr:FILE`: listed clients never reach smtpd.

    postscreen(8) knows only `reject` and `dunno`, without a reply text. A listed client cannot
    write to postmaster either, so this is only for operators who want to reject. `now`: Unix
    seconds; the lines have no line ends.
    """
    yield f"# gatepost: {plural(len(blocked), 'listing')}, {timestamp(now)}"
    for one in blocked:
        yield f"# until {one.until}: {one.evidence()}"
        yield f"{one.network}\treject"


def recipient_lines(traps: Sequence[Trap]) -> Iterator[str]:
    """A recipient table, line by line: Postfix accepts mail for these addresses
    (`local_recipient_maps` etc.). Traps that are not `usable` are left out."""
    yield "# gatepost: addresses of traps; part of local_recipient_maps or virtual_mailbox_maps"
    for trap in traps:
        if usable(trap):
            yield f"{trap.key}\tOK"


def transport_lines(traps: Sequence[Trap]) -> Iterator[str]:
    """A transport table, line by line: mail for a trap that the milter accepts is discarded, not
    bounced. Traps that are not `usable` are left out."""
    yield "# gatepost: mail for traps is discarded; part of transport_maps"
    for trap in traps:
        if usable(trap):
            key = trap.key.removeprefix("@") if trap.kind == "domain" else trap.key
            yield f"{key}\tdiscard:trap"


def usable(trap: Trap) -> bool:
    """True for a trap that can be a key of a table: domains, and addresses without quoting; a
    pattern cannot."""
    return trap.kind == "domain" or (trap.kind == "exact" and _KEY.match(trap.key) is not None)
