"""A store full of our own story: one slow spammer, a newsletter, a crowd. Reserved names only."""

from ipaddress import ip_address

from sqlalchemy import Engine

from gatepost_policy import traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import ingest
from gatepost_policy.journal import record
from gatepost_policy.journal.record import Json, Seen
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Client, Facts, Family, Recipient, Signature
from gatepost_policy.store import writing

DAY = 86400
START = 1_767_225_600  # 2026-01-01
TRAP = "never-given@example.net"
HOSTILE = '"<script>alert(1)</script>"@example.org'


def _message(
    at: float, domain: str, recipient: str, client: str, result: str, local: str = "offers"
) -> Json:
    ip = ip_address(client)
    signature = Signature(
        domain=domain, selector="k1", algorithm="rsa-sha256", canonicalization="relaxed/relaxed",
        key_bits=2048, crypto="pass" if result == "pass" else "fail", result=result,
    )  # fmt: skip
    facts = Facts(
        at=at,
        client=Client(
            family=Family.IPV6 if ip.version == 6 else Family.IPV4,
            address=ip,
            port=40000,
            name=f"out.{domain}",
            helo=f"out.{domain}",
        ),
        queue_id=f"4Q{int(at) % 10**9:09d}",
        sender=address.parse(local if "@" in local else f"{local}@{domain}"),
        header_from=address.parse(f"{local}@{domain}"),
        recipients=(Recipient(address.parse(recipient)),),
        size=4096,
        message_id=f"<{int(at)}@{domain}>",
        signatures=() if result == "none" else (signature,),
    )
    hit = recipient == TRAP
    decision = Decision(
        Action.REJECT if hit else Action.ACCEPT, Reason.TRAP if hit else Reason.NO_BAD_SIGNAL
    )
    return record.message(Seen("message", facts, decision, (recipient,) if hit else ()))


def records() -> list[Json]:
    """Oldest first."""
    out = []
    # Once a month for half a year, signed, from IPv4 to IPv6, always to the trap.
    for month in range(6):
        client = "192.0.2.25" if month < 4 else "2001:db8:25::1"
        result = "fail" if month == 0 else "pass"
        out.append(_message(START + month * 30.4 * DAY, "slow.example.com", TRAP, client, result))
    for week in range(26):
        out.append(
            _message(START + week * 7 * DAY, "letter.example.org", "user@example.net",
                     "198.51.100.7", "pass", "news")
        )  # fmt: skip
    for number in range(120):
        domain = f"host{number % 40}.example.org"
        client = f"203.0.113.{number % 40 + 1}" if number % 3 else f"2001:db8:{number % 40:x}::2"
        result = ("pass", "none", "fail", "permerror")[number % 4]
        out.append(_message(START + number * 1.4 * DAY, domain, "user@example.net", client, result))
    out.append(
        _message(START + 100 * DAY, "xn--strae-oqa.example.org", "user@example.net",
                 "203.0.113.99", "pass", HOSTILE)
    )  # fmt: skip
    return sorted(out, key=lambda r: float(r["at"]))


def fill(engine: Engine, settings: Settings) -> None:
    """Write the story into a store."""
    with writing(engine) as connection:
        traps.add(connection, TRAP, at=START, source="the story")
    with writing(engine) as connection:
        ingest(connection, records(), settings, START + 200 * DAY)
