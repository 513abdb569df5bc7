"""The envelope of a saved message: from the command line, else its sidecar, else the message
itself, else assumed."""

import itertools
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatepost_milter.mta.envelope import Envelope
from gatepost_milter.mta.queue_file import Field, crlf, parse
from gatepost_milter.replay import arrival
from gatepost_milter.replay.saved_mail import Item
from gatepost_policy.mail.address import header_from

CLIENT = "192.0.2.1"
RECIPIENT = "postmaster@localhost"
VERSION = "Postfix 3.7.11"
FIRST_PORT, PORTS = 1_024, 64_000
# A milter packet holds 64 KiB, and the other macros of the stage go into the same one.
MAX_MACRO_BYTES = 48_000
_run = secrets.token_hex(3).upper()
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says; None and (): take it from sidecar or message. `at`: Unix
    seconds. `dns`: recorded answers, name to answer (`dns_file`)."""

    client: str | None = None
    helo: str | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()
    login: str | None = None
    at: float | None = None
    dns: Mapping[str, Any] | None = None
    version: str = VERSION  # the MTA's macro {v}


@dataclass(frozen=True, slots=True)
class Request:
    """The envelope to replay with. `assumed`: (what, value) pairs that were found nowhere."""

    envelope: Envelope
    assumed: tuple[tuple[str, str], ...] = ()


def request(item: Item, given: Given, *, spool: Path | None, now: float) -> Request:
    """The envelope for `item`. `now`: Unix seconds, used where no time of arrival is found.

    With `spool` (a directory of the private milter) time and DNS answers are sent to the milter as
    macros. Raises OSError where long answers cannot be written to `spool`.
    """
    said = _Said.of(item, given)
    assumed: list[tuple[str, str]] = []

    def or_assume(what: str, value: str | None, otherwise: str) -> str:
        if value is not None:
            return value
        assumed.append((what, otherwise))
        return otherwise

    client = None if said.unix else or_assume("client", said.client, CLIENT)
    recipients = said.recipients or (or_assume("recipient", None, RECIPIENT),)
    at = said.at
    if at is None:
        assumed.append(("time", "now"))
        at = now
    macros: dict[str, str | bytes | None] = {}
    number = next(_numbers)
    queue_id = f"{_run}{os.getpid() & 0xFFFFFF:06X}{number:X}"
    if spool is not None:
        macros["{gatepost_at}"] = repr(at)
        if said.dns is not None:
            macros["{gatepost_dns}"] = _dns_macro(said.dns, spool / f"{queue_id}.dns")
            if said.keys_only:
                macros["{gatepost_keys_only}"] = "yes"
    envelope = Envelope(
        client=client,
        client_name=said.client_name,
        # A port of its own, so that the records of two messages do not look like one session.
        port=said.port or FIRST_PORT + number % PORTS,
        helo=said.helo or "localhost",
        sender=or_assume("sender", said.sender, said.author or ""),
        recipients=recipients,
        rejected=said.rejected,
        login=given.login,
        daemon_name="ORIGINATING" if given.login else None,
        version=given.version,
        macros=macros,
        queue_id=queue_id,
        at=at,
    )
    return Request(envelope, tuple(assumed))


def _dns_macro(answers: Mapping[str, Any], file: Path) -> str:
    text = json.dumps(answers)
    if len(text) < MAX_MACRO_BYTES:
        return text
    file.write_text(text, "ascii")
    return f"@{file}"


@dataclass(frozen=True, slots=True)
class _Said:
    client: str | None
    unix: bool
    port: int | None
    client_name: str | None
    helo: str | None
    sender: str | None
    author: str | None
    recipients: tuple[str, ...]
    rejected: tuple[str, ...]
    at: float | None
    dns: Mapping[str, Any] | None
    keys_only: bool  # `dns` holds answers for DKIM only, none for SPF or DMARC

    @classmethod
    def of(cls, item: Item, given: Given) -> "_Said":
        """The command line comes first, then the sidecar, then the message."""
        side = item.sidecar or {}
        known = side.get("envelope") if isinstance(side.get("envelope"), dict) else {}
        client = side.get("client") if isinstance(side.get("client"), dict) else {}
        side = {**side, **(known or {})}
        client = client or {"address": side.get("client"), "helo": side.get("helo")}
        fields, _ = parse(crlf(item.data))
        came = arrival.arrival(fields)
        address = given.client or _text(client.get("address")) or came.client
        # A host name and a HELO belong to their client, not to one that was given by hand.
        same = given.client is None
        port = client.get("port")
        listed = () if given.recipients else _addresses(side.get("recipients"))
        return cls(
            client=address,
            unix=same and address is None and client.get("family") == "unix",
            port=port if same and isinstance(port, int) and 0 < port < 65536 else None,
            client_name=_text(client.get("name")) or came.client_name if same else None,
            helo=given.helo or _text(client.get("helo")) or (came.helo if same else None),
            author=_author(fields),
            sender=_first(given.sender, _text(side.get("sender")), came.sender, item.mbox_sender),
            recipients=given.recipients or listed or came.recipients,
            rejected=() if given.recipients else _refused(side.get("recipients")),
            at=given.at if given.at is not None else _number(side.get("at"), came.at),
            dns=given.dns if given.dns is not None else side.get("dns"),
            # Sidecars from before gatepost checked SPF and DMARC have no key `checked`.
            keys_only=given.dns is None and "queue_id" in side and "checked" not in side,
        )


def _author(fields: Sequence[Field]) -> str | None:
    """The address in From: the most likely sender where the envelope was not recorded."""
    found = header_from([f.value for f in fields if f.label == b"from"])
    return found.raw if found else None


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


def _refused(value: object) -> tuple[str, ...]:
    """Those of `_addresses` that the MTA had refused."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    refused = (v for v in value if isinstance(v, dict) and v.get("accepted") is False)
    return tuple(v["address"] for v in refused if isinstance(v.get("address"), str))
