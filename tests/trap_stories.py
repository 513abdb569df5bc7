"""Stories of trap hits, played through the milter's own session on an empty store.

A story is a list of scenes, a scene a list of messages in their order; what a scene made known
holds from the next one on. A message says who sends what to whom, by which d= it is signed (with a
key made here), and what must become of it (`want`). At the end `listed` and `not_listed` name what
must and must not be listed, `reasons` what the trap hits were taken for, one for each change.

`spf=True` adds a record that passes for whoever really sent, where the story has none.
"""

import base64
import json
import shutil
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dkim
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import rsa

from from_table import from_table
from gatepost_milter.filter.answers import Answer, Refuse
from gatepost_milter.filter.context import Context
from gatepost_milter.filter.gate import Gate
from gatepost_milter.filter.session import Session
from gatepost_milter.mta import queue_file
from gatepost_milter.mta.conversation import OFFERED_ACTIONS, OFFERED_STEPS
from gatepost_milter.mta.envelope import Envelope, connection_macros, peer
from gatepost_milter.protocol.negotiation import Offer
from gatepost_policy import config, lookup, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.listings import dossier
from gatepost_policy.lookup import history
from gatepost_policy.recorder import Recorder

Story = dict[str, Any]
SIGNED = [b"from", b"subject", b"date", b"to", b"cc", b"message-id"]


@cache
def _key() -> tuple[bytes, str]:
    """(private key, DNS record)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    private = key.private_bytes(
        ser.Encoding.PEM, ser.PrivateFormat.TraditionalOpenSSL, ser.NoEncryption()
    )
    public = key.public_key().public_bytes(ser.Encoding.DER, ser.PublicFormat.SubjectPublicKeyInfo)
    return private, "v=DKIM1; k=rsa; p=" + base64.b64encode(public).decode()


def stories(folder: Path) -> list[Story]:
    """All stories of a folder."""
    return [s for path in sorted(folder.glob("*.json")) for s in json.loads(path.read_text())]


@dataclass
class Message:
    """One message, ready to be sent."""

    at: float
    want: str | None
    envelope: Envelope
    raw: bytes
    dns: dict[str, Any]


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def write(number: int, m: dict[str, Any], base: float, *, spf: bool) -> Message:
    """The message that `m` describes."""
    at = base + m.get("at", number)
    author = m["from"]
    recipients = m["rcpt"] if isinstance(m["rcpt"], list) else [m["rcpt"]]
    sender = m.get("env", author)
    head = [
        f"From: {author}",
        f"To: {m.get('to', recipients[0])}",
        *([f"Cc: {m['cc']}"] if "cc" in m else []),
        f"Subject: {m.get('subject', 'offer')}",
        f"Date: {formatdate(base + m['date'] if 'date' in m else at)}",
        f"Message-ID: <{m.get('id', f'{number}.{int(at)}')}@{_domain(author)}>",
        *m.get("extra", []),
    ]
    raw = ("\r\n".join(head) + "\r\n\r\n" + m.get("body", "buy") + "\r\n").encode()
    private, record = _key()
    answers: dict[str, Any] = {}
    domains = m.get("d", [])
    for domain in [domains] if isinstance(domains, str) else domains:
        signed = base + m["signed_at"] if "signed_at" in m else at
        raw = _signed(raw, domain, private, signed - m.get("signed_before", 5))
        failed = {"error": m["dns_error"]} if "dns_error" in m else None
        answers[f"jan._domainkey.{domain}"] = failed or record
    if spf:
        family = "ip6" if ":" in m["client"] else "ip4"
        who = _domain(sender) or m.get("helo") or m.get("name")
        if who:
            answers[who] = f"v=spf1 {family}:{m['client']} -all"
    answers.update(m.get("dns", {}))
    envelope = Envelope(
        client=m["client"],
        port=20_000 + number,
        client_name=m.get("name"),
        helo=m.get("helo", m.get("name") or "h.example"),
        sender=sender,
        recipients=tuple(recipients),
        macros={"{gatepost_at}": repr(at), "{gatepost_dns}": json.dumps(answers)},
    )
    return Message(at, m.get("want"), envelope, raw, answers)


def _signed(raw: bytes, domain: str, private: bytes, at: float) -> bytes:
    names = [name for name in SIGNED if name + b":" in raw.lower()]
    clock, dkim.time.time = dkim.time.time, lambda: at
    try:
        made: bytes = dkim.sign(
            raw, b"jan", domain.encode(), private,
            canonicalize=(b"relaxed", b"relaxed"), include_headers=names,
        )  # fmt: skip
    finally:
        dkim.time.time = clock
    return made + raw


def expand(scene: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """The messages of a scene; `times` and `every` make several of one, {k} numbers them."""
    out: list[dict[str, Any]] = []
    for m in scene:
        for k in range(m.get("times", 1)):
            text = json.dumps(m).replace("{k}", str(k)).replace("{k16}", f"{k:x}")
            one: dict[str, Any] = json.loads(text)
            number = first + len(out)
            one["at"] = m.get("at", number) + k * m.get("every", 1)
            out.append(one)
    return out


@dataclass
class Played:
    """What became of a story."""

    wrong: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)  # value: reason


def play(story: Story, home: Path, empty: Path, *, spf: bool = False) -> Played:
    """Play `story` in `home` on a copy of the store `empty`; what differs stands in `wrong`."""
    # A story is about what is decided, not about how soon a busy machine's disk answers; and its
    # days pass in less time than an answer of the store is kept.
    with patch.multiple(history, WAIT_S=30.0, FRESH_S=0.0):
        return _play(story, home, empty, spf=spf)


def _play(story: Story, home: Path, empty: Path, *, spf: bool) -> Played:
    tables = {
        "store": {"url": f"sqlite:///{home}/gatepost.sqlite"},
        "sender": {"action": "reject"},
        "log": {"level": "error"},
    }
    for table, keys in story.get("config", {}).items():
        tables.setdefault(table, {}).update(keys)
    settings = from_table(Settings, tables)
    shutil.copy(empty, home / "gatepost.sqlite")
    engine = store.open_engine(settings)
    now = time.time()
    with store.writing(engine) as connection:
        for trap in story.get("traps", ["trap@home.example"]):
            traps.add(connection, trap, at=now)
    recorder = Recorder(settings)
    assert recorder.lock()
    _publish(recorder, settings)
    gate = Gate(settings, replay=True)
    played = Played()
    base, number = now - story.get("ago", 10_800), 0
    for scene in story["scenes"]:
        for one in expand(scene, number):
            message = write(number, one, base, spf=spf)
            action, reason, hit = _send(gate, message)
            if hit:
                played.reasons.append(reason)
            if message.want and action != message.want:
                played.wrong.append(f"message {number}: {action} {reason}, want {message.want}")
            number += 1
        while recorder.ingest_once():
            pass
        _publish(recorder, settings)
    gate.close()
    with store.reading(engine) as connection:
        for entry in dossier.listings(connection, now, past=True, limit=1000):
            played.listed[entry.value.removesuffix("/32")] = entry.reason
    recorder.close()
    engine.dispose()
    _compare(story, played)
    return played


def _compare(story: Story, played: Played) -> None:
    held = played.listed
    played.wrong += [f"not listed: {x}" for x in story.get("listed", []) if x not in held]
    played.wrong += [f"listed: {x}" for x in story.get("not_listed", []) if x in held]
    if "reasons" in story:
        got = [reason for reason, _ in groupby(played.reasons)]
        if got != story["reasons"]:
            played.wrong.append(f"reasons {got}, want {story['reasons']}")


def _publish(recorder: Recorder, settings: Settings) -> None:
    with store.reading(recorder.engine()) as connection:
        lookup.publish(connection, config.state_dir(settings), settings)


def _send(gate: Gate, message: Message) -> tuple[str, str, bool]:
    """(action, reason, is it a trap hit) of one message, as the session answers it."""
    context = Context(gate)
    session = Session(context, context.agree(Offer(OFFERED_ACTIONS, OFFERED_STEPS)))
    values = connection_macros(message.envelope)

    def macro(name: str) -> str | None:
        value = values.get(name)
        return (value.decode() if isinstance(value, bytes) else value) or None

    seen: list[Any] = []
    write_down = gate.write_down

    def keep(verdict: Any, kind: str = "message") -> None:
        seen.append(verdict)
        write_down(verdict, kind)

    gate.write_down = keep  # type: ignore[method-assign]
    try:
        session.connect(peer(message.envelope), macro)
        session.helo(str(message.envelope.helo))
        session.mail(f"<{message.envelope.sender}>".encode(), (), macro)
        for name in message.envelope.recipients:
            session.rcpt(f"<{name}>".encode(), macro)
        values["i"] = "QUEUE1"
        fields, body = queue_file.parse(message.raw)
        for one in fields:
            value = one.value if session.leading_space else one.value.removeprefix(b" ")
            session.header(one.name.decode(), value)
        session.body(body)
        answer: Answer = session.end(macro)
        session.settle()
        session.close()
    finally:
        gate.write_down = write_down  # type: ignore[method-assign]
    (verdict,) = seen
    action = "reject" if isinstance(answer, Refuse) else "accept"
    return action, str(verdict.decision.reason), bool(verdict.traps)
