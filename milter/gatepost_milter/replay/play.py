"""Put one saved message through a milter and return the outcome.

Of client, envelope and time, what is not given is taken from the sidecar, then from the message
itself, else assumed (`saved_envelope`). The signatures, the ARC state and the reason are read from
the record that the milter wrote; nothing is evaluated a second time here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gatepost_milter.mta.client import Result, Session
from gatepost_milter.mta.envelope import Envelope, peer
from gatepost_milter.mta.wire import ProtocolError
from gatepost_milter.replay.saved_envelope import Given, Request, request
from gatepost_milter.replay.saved_mail import Item
from gatepost_policy.journal.record import Json

TIMEOUT_S = 120.0
SIGNATURE_KEYS = (
    "domain", "selector", "algorithm", "canonicalization", "key_bits", "body_limit",
    "crypto", "result", "reason",
)  # fmt: skip

SPF_KEYS = ("result", "domain", "mechanism", "reason")
DMARC_KEYS = ("result", "domain", "organisation", "policy", "aligned", "reason")

Find = Callable[[Result, Envelope], Json | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one message: `json` is what `--format json` prints, `record` the journal's."""

    file: str
    json: Json
    result: Result | None = None
    request: Request | None = None
    record: Json | None = field(default=None, repr=False)

    @property
    def failed(self) -> bool:
        """True where there is an error instead of an outcome."""
        return self.json["error"] is not None


def run(item: Item, given: Given, socket: str, find: Find, *, spool: Path | None = None) -> Outcome:
    """Put `item` through the milter at `socket`. Errors are in the Outcome, not raised."""
    if item.error is not None:
        return failure(item.file, item.error)
    try:
        asked = request(item, given, spool=spool, now=time.time())
        with Session(socket, asked.envelope, timeout=TIMEOUT_S) as session:
            result = session.send(item.data)
        record = find(result, asked.envelope)
    except ProtocolError as error:
        return failure(item.file, str(error))
    except (OSError, ValueError, OverflowError) as error:
        # An invalid client address or time, on the command line or in a sidecar.
        return failure(item.file, f"{type(error).__name__}: {error}")
    return Outcome(item.file, _json(item, asked, result, record), result, asked, record)


def spf_json(spf: Json | None) -> Json | None:
    """SPF of a record with every key, None where it was not evaluated."""
    if spf is None:
        return None
    return {name: {key: check.get(key) for key in SPF_KEYS} for name, check in spf.items()}


def dmarc_json(dmarc: Json | None) -> Json | None:
    """DMARC of a record with every key, None where it was not evaluated."""
    if dmarc is None:
        return None
    return {key: dmarc.get(key, [] if key == "aligned" else None) for key in DMARC_KEYS}


def failure(file: str, error: str) -> Outcome:
    """The object of a file that failed: `error` set and the rest null."""
    keys = ("direction", "family", "signatures", "arc", "spf", "dmarc", "edits", "decision")
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
        "spf": spf_json(seen.get("spf")),
        "dmarc": dmarc_json(seen.get("dmarc")),
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
    """What is known of the verdict of an external milter whose journal cannot be read.

    The signatures are those that its Authentication-Results name; the reason is not known.
    """
    from gatepost_milter.replay.read_results import signatures

    envelope = asked.envelope
    families = {"4": "ipv4", "6": "ipv6"}
    return {
        "direction": "submission" if envelope.login else "inbound",
        "family": families.get(peer(envelope).family, "unix"),
        "signatures": signatures(result.edits),
        "arc": None,
        "spf": None,
        "dmarc": None,
        "action": result.action,
        "reason": None,
    }
