"""SPF, DMARC and trail of a stored message, as facts and as JSON. Pure: values in, values out."""

import json
from typing import Any, Protocol

from gatepost_policy.mail.facts import Dmarc, Family, Spf, SpfCheck, TrailHop

Json = dict[str, Any]


class Checked(Protocol):
    """The columns of a `message` row with the results of SPF and DMARC."""

    spf: str | None
    spf_domain: str | None
    spf_mechanism: str | None
    spf_reason: str | None
    helo_spf: str | None
    helo_spf_domain: str | None
    helo_spf_mechanism: str | None
    helo_spf_reason: str | None
    dmarc: str | None
    dmarc_domain: str | None
    dmarc_organisation: str | None
    dmarc_policy: str | None
    dmarc_aligned: str | None
    dmarc_reason: str | None


def spf_of(row: Checked) -> Spf | None:
    """SPF of a message; None where it was not evaluated."""
    if row.spf is None:
        return None
    return Spf(
        SpfCheck(row.spf, row.spf_domain, row.spf_mechanism, row.spf_reason),
        SpfCheck(
            row.helo_spf or "none",
            row.helo_spf_domain,
            row.helo_spf_mechanism,
            row.helo_spf_reason,
        ),
    )


def dmarc_of(row: Checked) -> Dmarc | None:
    """DMARC of a message; None where it was not evaluated."""
    if row.dmarc is None:
        return None
    return Dmarc(
        row.dmarc,
        row.dmarc_domain or "",
        row.dmarc_organisation,
        row.dmarc_policy,
        tuple(row.dmarc_aligned.split(",")) if row.dmarc_aligned else (),
        row.dmarc_reason,
    )


def spf_json(spf: Spf | None) -> Json | None:
    """As in the report's `messages` and in a replay."""
    if spf is None:
        return None
    return {"mail_from": _check_json(spf.mail_from), "helo": _check_json(spf.helo)}


def _check_json(check: SpfCheck) -> Json:
    return {
        "result": check.result,
        "domain": check.domain,
        "mechanism": check.mechanism,
        "reason": check.reason,
    }


def dmarc_json(dmarc: Dmarc | None) -> Json | None:
    """As in the report's `messages` and in a replay."""
    if dmarc is None:
        return None
    return {
        "result": dmarc.result,
        "domain": dmarc.domain,
        "organisation": dmarc.organisation,
        "policy": dmarc.policy,
        "aligned": list(dmarc.aligned),
        "reason": dmarc.reason,
    }


def trail_of(text: str | None) -> tuple[TrailHop, ...] | None:
    """The hops in the column `trail`, newest first; None where they are not known."""
    if text is None:
        return None
    hops = json.loads(text)
    return tuple(TrailHop(None if hop[0] is None else Family(hop[0]), hop[1]) for hop in hops)


def trail_json(trail: tuple[TrailHop, ...] | None) -> list[Json] | None:
    """As in the report's `messages`: newest first."""
    if trail is None:
        return None
    return [{"family": hop.family, "protocol": hop.protocol} for hop in trail]
