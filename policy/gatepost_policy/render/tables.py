"""The report's tables: who hit a trap, clients, listings, messages."""

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from gatepost_policy.report.overview_values import Sender
from gatepost_policy.report.report import Line, Listed, Report
from gatepost_policy.report.rhythm import DAY, number
from gatepost_policy.report.standing import NAMES
from gatepost_policy.report.summary import Host
from gatepost_policy.text.decided import decided
from gatepost_policy.text.escape import shown
from gatepost_policy.text.fitted import fitted
from gatepost_policy.text.terminal import BAD, DIM, UNSIGNED, client, minute, plain, style, whole
from gatepost_policy.text.times import timestamp

WIDE = 150  # columns; from here on a message is one line
RECIPIENTS_SHOWN = 10  # on a terminal; into a pipe all of them


def overview(report: Report, to: Console) -> list[RenderableType]:
    """The tables of an overview, each after an empty line: senders that hit a trap, domains that
    send over IPv4 and IPv6, and low-and-slow patterns. Those without rows are left out."""
    parts: list[RenderableType] = []
    if report.senders:
        parts += [Text(), _senders(report.senders, to)]
    if report.dual_stack:
        dual = plain("Domain", "IPv4", "IPv6", "Traps", "Proven", to=to, title="On both families")
        for row in report.dual_stack:
            dual.add_row(
                shown(row.domain), str(row.ipv4), str(row.ipv6), str(row.trap_messages),
                "yes" if row.proven else "no",
            )  # fmt: skip
        parts += [Text(), fitted(dual, to, "Domain")]
    if report.low_and_slow:
        slow = plain("Pattern", "Clients", "Messages", "Seen", to=to, title="Low and slow")
        for pattern in report.low_and_slow:
            seen = f"{timestamp(pattern.first_seen)[:10]} to {timestamp(pattern.last_seen)[:10]}"
            slow.add_row(shown(pattern.sentence), str(pattern.hosts), str(pattern.messages), seen)
        parts += [Text(), fitted(slow, to)]
    return parts


def _senders(senders: Sequence[Sender], to: Console) -> RenderableType:
    wide = not to.is_terminal or to.width >= 110
    names = ("Sender", "Mails", "Traps", "Months", "Rhythm", "Families", "Standing")
    more = ("DKIM", "Last seen") if wide else ()
    made = plain(*names, *more, to=to, title="Who hit a trap")
    for column in made.columns[1:4]:
        column.no_wrap = True
    for sender in senders:
        standing = Text("repeat sender", BAD) if sender.standing.repeat else Text("")
        if sender.listed_until is not None:
            standing.append(", " if standing else "").append("listed", "red")
        row: list[RenderableType] = [
            shown(sender.sender),
            str(sender.summary.messages),
            str(sender.trap_messages),
            f"{sender.rhythm.months} of {sender.rhythm.month_span}",
            _rhythm(sender, wide),
            (", " if wide else ",\n").join(
                f"{NAMES.get(f, f)} {n}" for f, n in sender.summary.families.items()
            ),
            standing,
        ]
        if wide:
            words = ((UNSIGNED.get(r, r), n) for r, n in sender.summary.dkim.items())
            row.append(", ".join(f"{word} {n}" for word, n in words))
            row.append(timestamp(sender.rhythm.last)[:10])
        made.add_row(*row)
    return fitted(made, to, "Sender")


def _rhythm(sender: Sender, wide: bool) -> str:
    """`monthly`, with the median gap where there is room for it."""
    gap = sender.rhythm.median_gap
    return f"{sender.rhythm.word}, {number(gap)} d" if wide and gap else sender.rhythm.word


def clients(hosts: Sequence[Host], to: Console) -> RenderableType:
    """The table of client hosts, in the order of `hosts`."""
    made = plain("Client", "Family", "Messages", to=to, title="Clients")
    for host in hosts:
        family = NAMES.get(host.family, shown(host.family))
        made.add_row(client(host.address, host.host), family, str(host.messages))
    return fitted(made, to, "Client")


def listings(listings: Sequence[Listed], to: Console) -> RenderableType:
    """The table of listings, in their order: value, times (UTC), reason, hits and state (active,
    over, or forgiven and when)."""
    made = plain("Listed", "Since", "Until", "Reason", "Hits", "", to=to, title="Listings")
    for listing in listings:
        state = "active" if listing.active else "over"
        if listing.forgiven is not None:
            state = f"forgiven {timestamp(listing.forgiven)[:10]}"
        made.add_row(
            shown(listing.value),
            minute(listing.since),
            minute(listing.until),
            shown(listing.reason),
            str(listing.hits),
            Text(state, "red" if listing.active else DIM),
        )
    return fitted(whole(made, to, "Since", "Until"), to, "Listed")


def messages(lines: Sequence[Line], to: Console) -> RenderableType:
    """The table of messages. `lines`: newest first; the column Gap has the days since the next
    older one. On a terminal of less than WIDE columns a message takes more than one line."""
    wide = not to.is_terminal or to.width >= WIDE
    most = RECIPIENTS_SHOWN if to.is_terminal else None
    checked = wide and any(line.spf or line.dmarc for line in lines)
    names = ["Client", "Sender", "To", "DKIM", "Size", "Decision", "Seen by"]
    if checked:
        names[4:4] = ["SPF", "DMARC"]
    made = plain("Received (UTC)", "Gap", "Family", *(names if wide else ("DKIM", "Who")), to=to)
    for column in made.columns[:3]:
        column.no_wrap = True
    made.columns[1].justify = "right"
    for at, line in enumerate(lines):
        before = lines[at + 1].at if at + 1 < len(lines) else None
        gap = "" if before is None else f"{number(round((line.at - before) / DAY, 1))} d"
        brought = client(line.address, line.client_name)
        row: list[RenderableType] = [
            minute(line.at), gap, NAMES.get(line.family, shown(line.family)),
        ]  # fmt: skip
        if wide:
            row += [brought, _author(line), _recipients(line, most), _signatures(line)]
            if checked:
                row += [_spf(line), _dmarc(line)]
            size = "" if line.size is None else str(line.size)
            row += [size, shown(decided(line.action, line.reason, line.source)), line.source]
        else:
            dkim = UNSIGNED.get(line.dkim, line.dkim) if _seen(line) else ""
            who = Text(_author(line)).append(" to ").append(_recipients(line, most))
            row += [Text(dkim, style(line.dkim)), who.append(f"\n{brought}", DIM)]
        made.add_row(*row)
    return fitted(made, to, "Client", "Sender", "To", prose="Who")


def _author(line: Line) -> str:
    sender = "<>" if line.sender == "" else shown(line.sender or "")
    if line.header_from and line.header_from != line.sender:
        return f"{sender} (From {shown(line.header_from)})"
    return sender


def _recipients(line: Line, most: int | None = None) -> Text:
    """The recipients, at most `most` of them; where some are left out, traps come first."""
    text = Text()
    given = line.recipients[:]
    if most is not None and len(given) > most:
        given = tuple(sorted(given, key=lambda one: not one[1]))[:most]
    for address, trap in given:
        text.append(", " if text else "").append(shown(address), BAD if trap else "")
        if trap:
            text.append(" (trap)", BAD)
    if len(given) < len(line.recipients):
        text.append(f" and {len(line.recipients) - len(given)} more", DIM)
    return text


def _spf(line: Line) -> Text:
    if line.spf is None:
        return Text()
    found = line.spf.mail_from
    return Text(found.result, style(found.result)).append(f" {shown(found.domain or '')}")


def _dmarc(line: Line) -> Text:
    found = line.dmarc
    if found is None:
        return Text()
    asked = f" p={found.policy}" if found.result == "fail" and found.policy else ""
    return Text(found.result, style(found.result)).append(f" {shown(found.domain)}{asked}")


def _seen(line: Line) -> bool:
    """False where only a RCPT TO was seen of it: then the message may have been signed."""
    return bool(line.signatures) or line.size is not None


def _signatures(line: Line) -> Text:
    if not line.signatures:
        return Text("unsigned" if _seen(line) else "", DIM)
    text = Text()
    for signature in line.signatures:
        text.append(", " if text else "").append(signature.result, style(signature.result))
        text.append(f" {shown(signature.domain or '')}")
        if signature.reason and signature.result != "pass":
            text.append(f" ({shown(signature.reason)})", DIM)
    return text
