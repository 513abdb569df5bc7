"""What the journal holds: one JSON object for each thing that was seen, and how it is read back.

A record is written before the MTA is answered and read by the recorder, perhaps by a later
release: every version ever written stays readable. Kinds:

* `message`: one finished message, or one message of an MTA's log;
* `rcpt`: one RCPT TO that the policy service judged (or a recipient that the MTA refused as
  unknown);
* `count`: one submission, of which only day, direction, family, reason and action are kept;
* `live-trap`: one of our own users wrote or logged in with a trap's address, so it should be no
  trap;
* `guess`: an address that was tried and does not exist; `groper`: a host that tries logins;
  `no-guess`: one of these logged in with success, and is removed again;
* `gap`: records were lost between two times (journal full, disk full).

Rule: a `count` record is made from Facts whose direction is not inbound and holds nothing of the
client, the sender or the recipients.
"""

from dataclasses import fields
from ipaddress import ip_address
from operator import attrgetter
from typing import Any

from gatepost_policy.mail import address, dkim_reason, marks
from gatepost_policy.mail.addressed import addressed
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import (
    Arc,
    Client,
    Direction,
    Dmarc,
    Facts,
    Family,
    Recipient,
    Signature,
    Source,
    Spf,
    SpfCheck,
    Stage,
    TrailHop,
)
from gatepost_policy.mail.message_dataclass import dataclass

VERSION = 1
MAX_TEXT = 998  # RFC 5322 2.1.1: a line; a path is 256 octets (RFC 5321 4.5.3.1.3)
MAX_NAME = 255  # RFC 1035 2.3.4: a domain name

Json = dict[str, Any]
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_INBOUND = Direction.INBOUND


@dataclass(frozen=True, slots=True)
class Seen:
    """A `message` or `rcpt` record as values.

    `traps` holds the raw addresses that were traps when the mail came. `key` is set by importers
    only: the key that lets an import recognise a message it has read before. `waited`: seconds for
    which an importer that follows a log kept it back.
    """

    kind: str
    facts: Facts
    decision: Decision
    traps: tuple[str, ...] = ()
    key: str | None = None
    instance: str | None = None  # Postfix's policy `instance`: one message, several requests
    waited: float = 0.0


def message(seen: Seen) -> Json:
    """The JSON object of a `message` or `rcpt` record."""
    facts, decision = seen.facts, seen.decision
    client = facts.client if facts.direction is _INBOUND else facts.client.redacted()
    traps, recipients = seen.traps, facts.recipients
    author = facts.header_from
    out: Json = {
        "v": VERSION,
        "kind": seen.kind,
        "at": facts.at,
        "source": facts.source,
        "direction": facts.direction,
        "family": client.family,
        "client": None,
        "queue_id": _short(facts.queue_id),
        "sender": facts.sender.raw[:MAX_TEXT],
        "header_from": None if author is None else _short(author.raw),
        "recipients": [
            {
                "address": r.address.raw[:MAX_TEXT],
                "trap": r.address.raw in traps,
                "accepted": r.accepted,
            }
            for r in recipients
        ],
        "size": facts.size,
        "message_id": _short(facts.message_id),
        "signatures": [_signature(s, recipients) for s in facts.signatures],
        "arc": None if facts.arc is None else [facts.arc.cv, facts.arc.reason],
        "action": decision.action,
        "reason": decision.reason,
        "shadow": list(decision.shadow),
    }
    if client.address is not None or client.helo is not None:
        out["client"] = {
            "address": None if client.address is None else str(client.address),
            "port": client.port,
            "name": _short(client.name),
            "helo": _short(client.helo),
        }
    # What is not known is not written: `read_seen` reads a missing value as None, or as no relay.
    if facts.trusted_relay:
        out["relay"] = True
    if facts.spf is not None:
        out["spf"] = _spf(facts.spf)
    if facts.dmarc is not None:
        out["dmarc"] = _dmarc(facts.dmarc)
    if facts.trail is not None:
        out["trail"] = [[h.family, h.protocol] for h in facts.trail]
    if facts.marks is not None:
        out["marks"] = marks.text(facts.marks)
    for name, value in (
        ("over_limit", facts.over_limit), ("key", seen.key), ("instance", seen.instance)
    ):  # fmt: skip
        if value is not None:
            out[name] = value
    if facts.dropped:
        out["dropped"] = list(facts.dropped)
    if facts.untraced:
        out["untraced"] = True
    return out


def _short(text: str | None) -> str | None:
    """A client's text, cut to MAX_TEXT characters: 60 kB for each message would fill the disk."""
    return text if text is None or len(text) <= MAX_TEXT else text[:MAX_TEXT]


# The addresses in a signed To and Cc are recorded only as the word `addressed`.
_SIGNATURE = tuple(field.name for field in fields(Signature) if field.name != "signed_to")
_signature_values = attrgetter(*_SIGNATURE)


def _signature(signature: Signature, recipients: tuple[Recipient, ...]) -> Json:
    # Not `asdict`: it copies deeply, and costs 12 us of every message.
    out: Json = {}
    for name, value in zip(_SIGNATURE, _signature_values(signature), strict=True):
        if value is None or value == ():
            continue
        if isinstance(value, str) and len(value) > MAX_NAME:
            value = value[:MAX_NAME]
        out[name] = value
    if signature.signed_to is not None and signature.addressed is None:
        out["addressed"] = addressed(signature.signed_to, recipients)
    return out


def _read_signature(s: Json) -> Signature:
    told = {"flags": tuple(s.get("flags", ())), "reason": dkim_reason.read(s.get("reason"))}
    return Signature(**{**s, **told})


def _spf(spf: Spf) -> Json:
    return {"mail_from": _spf_check(spf.mail_from), "helo": _spf_check(spf.helo)}


def _spf_check(check: SpfCheck) -> Json:
    found: Json = {"result": check.result}
    if check.domain is not None:
        found["domain"] = check.domain[:MAX_NAME]
    if check.mechanism is not None:
        found["mechanism"] = check.mechanism[:MAX_NAME]
    if check.reason is not None:
        found["reason"] = check.reason
    return found


def _dmarc(dmarc: Dmarc) -> Json:
    found: Json = {"result": dmarc.result, "domain": dmarc.domain[:MAX_NAME]}
    if dmarc.organisation is not None:
        found["organisation"] = dmarc.organisation[:MAX_NAME]
    if dmarc.policy is not None:
        found["policy"] = dmarc.policy
    if dmarc.aligned:
        found["aligned"] = list(dmarc.aligned)
    if dmarc.reason is not None:
        found["reason"] = dmarc.reason
    return found


def _read_spf(data: Json | None) -> Spf | None:
    if data is None:
        return None
    return Spf(SpfCheck(**data["mail_from"]), SpfCheck(**data["helo"]))


def _read_trail(data: list[Any] | None) -> tuple[TrailHop, ...] | None:
    if data is None:
        return None
    return tuple(TrailHop(None if hop[0] is None else Family(hop[0]), hop[1]) for hop in data)


def _read_dmarc(data: Json | None) -> Dmarc | None:
    return None if data is None else Dmarc(**{**data, "aligned": tuple(data.get("aligned", ()))})


def count(facts: Facts, decision: Decision) -> Json:
    """The `count` record of a submission: it holds no client, sender or recipient."""
    return {
        "v": VERSION,
        "kind": "count",
        "at": facts.at,
        "direction": facts.direction,
        "family": facts.client.family,
        "action": decision.action,
        "reason": decision.reason,
        **_scrubbed(facts),
    }


def _scrubbed(facts: Facts) -> Json:
    out: Json = {"dropped": list(facts.dropped)} if facts.dropped else {}
    if facts.untraced:
        out["untraced"] = True
    return out


def live_trap(key: str, how: str, at: float) -> Json:
    """The record that one of our own users used the trap `key`: as a `login` or a
    `submission-sender`.

    Only the UTC day of `at` (Unix seconds) is kept: the operator needs to know of the trap, but not
    when a user was at work.
    """
    return {"v": VERSION, "kind": "live-trap", "at": at // 86_400 * 86_400, "trap": key, "how": how}


def gap(since: float, until: float, lost: int) -> Json:
    """The record that `lost` records are missing between `since` and `until` (Unix seconds)."""
    return {"v": VERSION, "kind": "gap", "at": until, "since": since, "lost": lost}


def read_seen(data: Json) -> Seen:
    """The values of a `message` or `rcpt` record. Raises KeyError, TypeError or ValueError where it
    is damaged.
    """
    got = data["client"] or {}
    ip = got.get("address")
    facts = Facts(
        at=float(data["at"]),
        source=Source(data["source"]),
        stage=Stage.RCPT if data["kind"] == "rcpt" else Stage.END,
        direction=Direction(data["direction"]),
        client=Client(
            family=Family(data["family"]),
            address=None if ip is None else ip_address(ip),
            port=got.get("port"),
            name=got.get("name"),
            helo=got.get("helo"),
        ),
        trusted_relay=bool(data.get("relay")),
        queue_id=data["queue_id"],
        sender=address.parse(data["sender"]),
        header_from=None if data["header_from"] is None else address.parse(data["header_from"]),
        recipients=tuple(
            Recipient(address.parse(r["address"]), bool(r["accepted"])) for r in data["recipients"]
        ),
        size=data["size"],
        message_id=data["message_id"],
        signatures=tuple(_read_signature(s) for s in data["signatures"]),
        arc=None if data["arc"] is None else Arc(*data["arc"]),
        # Records of earlier releases do not have these three.
        spf=_read_spf(data.get("spf")),
        dmarc=_read_dmarc(data.get("dmarc")),
        trail=_read_trail(data.get("trail")),
        over_limit=data.get("over_limit"),
        marks=marks.from_text(data.get("marks")),
    )
    decision = Decision(
        action=Action(data["action"]),
        reason=Reason(data["reason"]),
        shadow=tuple(Reason(word) for word in data["shadow"]),
    )
    traps = tuple(r["address"] for r in data["recipients"] if r["trap"])
    return Seen(data["kind"], facts, decision, traps, data.get("key"), data.get("instance"))
