"""Save and restore an importer's unfinished messages as JSON, because a follower may be killed.

Unfinished messages that are not inbound are saved without client, sender and recipients: such a
message will only be counted. Refusals that wait for the end of their session are not saved at all,
because that shows whose they are: who follows a log saves a state only once nothing of it waits
(`WatchedLog.mark`), so that the next run reads their lines again.

Limits: this is not the importers' whole state. Pieces of an entry that was cut for syslog, and
whether a header follows a refusal, are not saved; that one entry may be lost.
"""

from dataclasses import asdict
from ipaddress import ip_address
from typing import Any

from gatepost_policy.importers import exim, postfix_open
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.fate import Fate
from gatepost_policy.importers.opendkim import Signatures
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.mail import dkim_reason
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Client, Direction, Family, Signature
from gatepost_policy.rules.whose_mail import Ownership

Json = dict[str, Any]


def dump(importer: Exim | Postfix) -> Json:
    """The unfinished messages, and the counter of refused submissions (`Ordinals`)."""
    ordinals = importer.ordinals
    out: Json = {
        "last": importer.last,
        "ordinals": [ordinals.at, ordinals.number],
        "open": [[key, _out(one)] for key, one in importer.under_way.items()],
    }
    if isinstance(importer, Exim):
        out["free_helo"] = importer.free_helo
    else:
        out["held"] = [[key, _out(one)] for key, one in importer.held.items()]
        out["sessions"] = importer.refusals.sessions.dump(importer.last)
    return out


def load(importer: Exim | Postfix, told: Json, log: object) -> None:
    """Restore what `dump` gave. `log`: the clock that `lines` will get for this log.

    Raises KeyError, TypeError or ValueError for a state that `dump` did not make.
    """
    importer.last = float(told["last"])
    at, number = told["ordinals"]
    importer.ordinals.resume(log, float(at), int(number))
    if isinstance(importer, Exim):
        importer.under_way.update({str(key): _exim(one) for key, one in told["open"]})
        importer.free_helo = bool(told.get("free_helo"))
        return
    if "sessions" in told:  # not in a state from before there were any
        importer.refusals.sessions.load(told["sessions"])
    for place, target in (("open", importer.under_way), ("held", importer.held)):
        target.update({(str(key[0]), str(key[1])): _postfix(one) for key, one in told[place]})


def _out(one: exim.Open | postfix_open.Open) -> Json:
    out: Json = {"at": one.at, "whose": asdict(one.whose), "size": one.size}
    if isinstance(one, exim.Open):
        out["listed"] = one.listed
        # Before the arrival line it is not known whether it is inbound.
        if one.at is None or one.whose.direction is Direction.INBOUND:
            out["signatures"] = [_signature_out(s) for s in one.signatures]
            out["dkim_lines"] = sorted(one.dkim_lines)
    else:
        out |= {
            "arrived": one.arrived,
            "queued": one.queued,
            "reinjected": one.reinjected,
            "held": one.held,
            "refusal": None if one.refusal is None else [one.refusal.action, one.refusal.reason],
        }
        if one.dkim is not None and one.whose.direction is Direction.INBOUND:
            out["dkim"] = [_signature_out(s) for s in one.dkim.found]
    if one.whose.direction is Direction.INBOUND:
        client = one.client
        out |= {
            "client": [
                client.family,
                None if client.address is None else str(client.address),
                client.port,
                client.name,
                client.helo,
            ],
            "sender": one.sender,
            "message_id": one.message_id,
            "recipients": one.recipients,
            "fate": [sorted(one.fate.delivered), one.fate.bounced],
        }
    else:
        # "-": only that there is a sender, because a bounce is treated differently.
        out |= {
            "client": [one.client.family, None, None, None, None],
            "sender": "-" if one.sender else "",
            "message_id": None,
            "recipients": {"-": any(one.recipients.values())} if one.recipients else {},
        }
    return out


def _shared(told: Json) -> Json:
    family, ip, port, name, helo = told["client"]
    whose = told["whose"]
    delivered, bounced = told.get("fate", ((), False))
    return {
        "at": told["at"],
        "sender": told["sender"],
        "client": Client(Family(family), None if ip is None else ip_address(ip), port, name, helo),
        "whose": Ownership(**{**whose, "direction": Direction(whose["direction"])}),
        "size": told["size"],
        "message_id": told["message_id"],
        "recipients": dict(told["recipients"]),
        "fate": Fate(set(delivered), bool(bounced)),
    }


def _exim(told: Json) -> exim.Open:
    return exim.Open(
        **_shared(told),
        listed=bool(told["listed"]),
        signatures=[_signature(s) for s in told.get("signatures", ())],
        dkim_lines=set(told.get("dkim_lines", ())),
    )


def _postfix(told: Json) -> postfix_open.Open:
    refusal = told["refusal"]
    dkim = told.get("dkim")
    return postfix_open.Open(
        **_shared(told),
        arrived=bool(told["arrived"]),
        queued=bool(told["queued"]),
        reinjected=bool(told["reinjected"]),
        held=float(told["held"]),
        refusal=None if refusal is None else Decision(Action(refusal[0]), Reason(refusal[1])),
        dkim=None if dkim is None else Signatures([_signature(s) for s in dkim]),
    )


def _signature_out(signature: Signature) -> Json:
    """The fields of a signature that a log can hold."""
    names = ("domain", "selector", "algorithm", "canonicalization", "key_bits", "body_limit",
             "crypto", "result", "reason")  # fmt: skip
    return {name: getattr(signature, name) for name in names}


def _signature(told: Json) -> Signature:
    return Signature(**{**told, "reason": dkim_reason.read(told["reason"])})
