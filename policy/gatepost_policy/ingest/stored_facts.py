"""The facts of a stored message, as far as the store kept them, to ask the rules again.

Pure. What a row does not hold is None or empty in the facts.
"""

from ipaddress import ip_address

from gatepost_policy.ingest import rows
from gatepost_policy.mail import address, dkim_reason, marks
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.facts import (
    Client,
    Direction,
    Facts,
    Family,
    Recipient,
    Signature,
    Source,
    Spf,
    SpfCheck,
    Stage,
)

OVER_LIMIT = (Reason.UNSCANNED.value, Reason.TOO_LARGE.value)


def read(row: rows.Row) -> Facts:
    """The facts of a stored message, as far as the store kept them."""
    stored = row.message
    text = stored.address or (stored.prefix or "").partition("/")[0]
    return Facts(
        at=stored.at,
        source=Source(stored.source),
        stage=Stage(stored.stage),
        direction=Direction(stored.direction),
        client=Client(
            family=Family(stored.family),
            address=ip_address(text) if text else None,
            name=stored.client_name,
            helo=stored.helo,
        ),
        trusted_relay=bool(stored.relay),
        queue_id=stored.queue_id,
        sender=row.sender or address.NULL,
        header_from=row.author,
        recipients=tuple(
            Recipient(address.parse(r.address), bool(r.accepted)) for r in row.recipients
        ),
        message_id=stored.message_id,
        signatures=tuple(_signature(s) for s in row.signatures),
        spf=_spf(stored),
        marks=marks.from_text(stored.marks),
        over_limit="recorded" if stored.reason in OVER_LIMIT else None,
    )


def _spf(stored: rows.MessageRow) -> Spf | None:
    if stored.spf is None:
        return None  # not evaluated, or by an earlier release
    return Spf(
        mail_from=SpfCheck(stored.spf, stored.spf_domain, stored.spf_mechanism, None),
        helo=SpfCheck(stored.helo_spf or "none", stored.helo_spf_domain),
    )


def _signature(s: rows.SignatureRow) -> Signature:
    return Signature(
        domain=s.domain,
        selector=s.selector,
        algorithm=s.algorithm,
        canonicalization=s.canonicalization,
        key_bits=s.key_bits,
        body_limit=s.body_limit,
        crypto=s.crypto,
        result=s.result,
        reason=dkim_reason.read(s.reason),
        unsigned_bytes=s.unsigned_bytes,
        flags=tuple(s.flags.split(",")) if s.flags else (),
        b_hash=s.b_hash,
        addressed=s.addressed,
    )
