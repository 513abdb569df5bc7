"""Put one saved message through a milter and say what came of it.

What is not given is taken from the sidecar, then from the message itself (`trace`), and else
assumed; `Request.assumed` names what was. The signatures, the ARC state and the reason are read
from the record that the milter wrote, never judged a second time here.
"""

import itertools
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatepost_milter import trace
from gatepost_milter.harness import Envelope, ProtocolError, Result, Session
from gatepost_milter.mailfiles import Item
from gatepost_milter.queuefile import crlf, parse
from gatepost_policy.record import Json

CLIENT = "192.0.2.1"
RECIPIENT = "postmaster@localhost"
TIMEOUT_S = 120.0
SIGNATURE_KEYS = (
    "domain", "selector", "algorithm", "canonicalization", "key_bits", "body_limit",
    "crypto", "result", "reason",
)  # fmt: skip

Find = Callable[[str], Json | None]
_run = secrets.token_hex(3).upper()
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says; None and () leave it to the message."""

    client: str | None = None
    helo: str | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()
    login: str | None = None
    at: float | None = None
    dns: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One message ready to go. `assumed` holds (what, value) pairs that nobody said."""

    envelope: Envelope
    assumed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one file. `json` is the object that DESIGN promises; `record` the journal's."""

    file: str
    json: Json
    result: Result | None = None
    request: Request | None = None
    record: Json | None = field(default=None, repr=False)

    @property
    def failed(self) -> bool:
        """True where there is an error instead of an outcome."""
        return self.json["error"] is not None


def request(item: Item, given: Given, *, private: bool, now: float) -> Request:
    """The envelope for `item`. `private`: the milter is ours and takes time and DNS from us."""
    said = _Said.of(item, given)
    assumed: list[tuple[str, str]] = []

    def or_assume(what: str, value: str | None, otherwise: str) -> str:
        if value is not None:
            return value
        assumed.append((what, otherwise))
        return otherwise

    client = or_assume("client", said.client, CLIENT)
    recipients = said.recipients or (or_assume("recipient", None, RECIPIENT),)
    at = said.at
    if at is None:
        assumed.append(("time", "now"))
        at = now
    macros: dict[str, str | bytes | None] = {}
    if private:
        macros["{gatepost_at}"] = repr(at)
        if said.dns is not None:
            macros["{gatepost_dns}"] = json.dumps(said.dns)
    envelope = Envelope(
        client=client,
        client_name=said.client_name,
        helo=said.helo or "localhost",
        sender=or_assume("sender", said.sender, ""),
        recipients=recipients,
        login=given.login,
        daemon_name="ORIGINATING" if given.login else None,
        macros=macros,
        queue_id=f"{_run}{os.getpid() & 0xFFFFFF:06X}{next(_numbers):X}",
        at=at,
    )
    return Request(envelope, tuple(assumed))


@dataclass(frozen=True, slots=True)
class _Said:
    client: str | None
    client_name: str | None
    helo: str | None
    sender: str | None
    recipients: tuple[str, ...]
    at: float | None
    dns: Mapping[str, Any] | None

    @classmethod
    def of(cls, item: Item, given: Given) -> "_Said":
        """The command line before the sidecar before the message."""
        side = item.sidecar or {}
        known = side.get("envelope") if isinstance(side.get("envelope"), dict) else {}
        client = side.get("client") if isinstance(side.get("client"), dict) else {}
        side = {**side, **(known or {})}
        client = client or {"address": side.get("client")}
        fields, _ = parse(crlf(item.data))
        came = trace.arrival(fields)
        address = given.client or _text(client.get("address")) or came.client
        # A host name and a HELO belong to their client, not to one that was given by hand.
        same = given.client is None
        return cls(
            client=address,
            client_name=_text(client.get("name")) or came.client_name if same else None,
            helo=given.helo or _text(client.get("helo")) or (came.helo if same else None),
            sender=_first(given.sender, _text(side.get("sender")), came.sender, item.mbox_sender),
            recipients=given.recipients or _addresses(side.get("recipients")) or came.recipients,
            at=given.at if given.at is not None else _number(side.get("at"), came.at),
            dns=given.dns if given.dns is not None else side.get("dns"),
        )


def _first(*values: str | None) -> str | None:
    return next((v for v in values if v is not None), None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object, otherwise: float | None) -> float | None:
    return float(value) if isinstance(value, int | float) else otherwise


def _addresses(value: object) -> tuple[str, ...]:
    """A list of addresses, or of objects with an `address`, as capture and report write them."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    plain = (v.get("address") if isinstance(v, dict) else v for v in value)
    return tuple(v for v in plain if isinstance(v, str))


def run(item: Item, given: Given, socket: str, find: Find, *, private: bool) -> Outcome:
    """Put `item` through the milter at `socket`. Never raises for what a message can hold."""
    if item.error is not None:
        return failure(item.file, item.error)
    try:
        asked = request(item, given, private=private, now=time.time())
        with Session(socket, asked.envelope, timeout=TIMEOUT_S) as session:
            result = session.send(item.data)
        record = find(result.queue_id)
    except ProtocolError as error:
        return failure(item.file, str(error))
    except (OSError, ValueError) as error:
        # ValueError: a client address that is none, on the command line or in a sidecar.
        return failure(item.file, f"{type(error).__name__}: {error}")
    return Outcome(item.file, _json(item, asked, result, record), result, asked, record)


def failure(file: str, error: str) -> Outcome:
    """The object of a file that failed: `error` set and the rest null."""
    keys = ("direction", "family", "signatures", "arc", "edits", "decision")
    return Outcome(file, {"file": file, **dict.fromkeys(keys), "error": error})


def _json(item: Item, asked: Request, result: Result, record: Json | None) -> Json:
    seen = record or _without_record(asked, result)
    arc = seen["arc"]
    return {
        "file": item.file,
        "direction": seen["direction"],
        "family": seen["family"],
        "signatures": [{key: s.get(key) for key in SIGNATURE_KEYS} for s in seen["signatures"]],
        "arc": None if arc is None else {"cv": arc[0], "reason": arc[1]},
        "edits": [
            {"op": e.op, "name": e.name, "index": e.index, "value": e.value} for e in result.edits
        ],
        "decision": {
            "action": seen["action"],
            "reason": seen["reason"],
            "reply": result.reply if result.action in ("reject", "tempfail") else None,
        },
        "error": None,
    }


def _without_record(asked: Request, result: Result) -> Json:
    """What can be told of an external milter's verdict whose record cannot be read.

    The signatures are those its Authentication-Results name; why it decided is not known.
    """
    from gatepost_milter.authread import signatures

    envelope = asked.envelope
    version = 6 if ":" in (envelope.client or "") else 4
    return {
        "direction": "submission" if envelope.login else "inbound",
        "family": f"ipv{version}",
        "signatures": signatures(result.edits),
        "arc": None,
        "action": result.action,
        "reason": None,
    }
