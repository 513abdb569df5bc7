"""Make Facts and signatures of a policy request, and the answer of a decision.

Pure; docs/policy-protocol.md is the specification, `protocol` reads the stream. The caller must
check `Request.doubt` first: a request in doubt is answered with `no_opinion`.

Privacy: of a submission the Facts hold only the client's address family, and no login.
"""

import base64
import re

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail import address, client_address, marks
from gatepost_policy.mail.decision import Action, Decision
from gatepost_policy.mail.dkim_reason import Why
from gatepost_policy.mail.exim_outcome import PASS, EximOutcome, refused
from gatepost_policy.mail.facts import (
    Client,
    Direction,
    Facts,
    Family,
    Recipient,
    Signature,
    Source,
    Stage,
)
from gatepost_policy.policyd.protocol import Form, Request
from gatepost_policy.rules import trace
from gatepost_policy.rules.whose_mail import HANDED_IN, ON_TRUST, Ownership, whose_mail

MAX_RECIPIENTS = 10_000
# Octets of a client name or HELO that are recorded; no real one is longer.
MAX_NAME = 1_024


def _client(request: Request) -> Client:
    get = request.values.get  # called a dozen times for each request
    text = get("client_address", "")
    ip = client_address.parse(text)
    if ip is None:
        # An SMTP client has an address; a unix socket or a local submission has none.
        local = not text or text.startswith("/") or text == "unknown"
        return Client(family=Family.UNIX if local and text != "unknown" else Family.UNKNOWN)
    name = get("client_name", "")[:MAX_NAME]
    port = get("client_port", "")
    return Client(
        family=client_address.family(ip),
        address=ip,
        port=int(port) if port.isascii() and port.isdigit() and len(port) < 6 else None,
        name=None if name in ("", "unknown") or name.startswith("[") else name.lower(),
        helo=(get("helo_name", "") or get("helo", ""))[:MAX_NAME] or None,
    )


def _whose(request: Request, client: Client, settings: Settings) -> Ownership:
    """Whose mail it is, as far as the request tells: it holds the envelope, no Received fields."""
    get = request.values.get
    whose = whose_mail(
        settings.submission,
        address=client.address,
        local=client.family is Family.UNIX,
        login=get("sasl_username", "") or get("login", ""),
        listener=get("policy_context", ""),
        submitted=get("submission", "") == "yes",
    )
    sender = address.parse(get("sender", ""))
    if whose is ON_TRUST and not trace.own_sender(sender, None, settings):
        return HANDED_IN
    return whose


def facts(
    request: Request, at: float, settings: Settings, signatures: tuple[Signature, ...] = ()
) -> Facts:
    """The Facts of a request without `doubt`: stage RCPT, or END for Exim's `data`.

    `at`: Unix seconds. Of a submission's client only the address family is kept, and no login.
    """
    client = _client(request)
    get = request.values.get
    whose = _whose(request, client, settings)
    direction = whose.direction
    end = request.form is Form.EXIM and get("stage", "") == "data"
    named = _split(get("recipients", "")) if end else [get("recipient", "")]
    size = get("size", "")
    return Facts(
        at=at,
        source=Source.POLICY,
        direction=direction,
        stage=Stage.END if end else Stage.RCPT,
        client=_recorded(client, whose),
        trusted_relay=whose.trusted_relay,
        queue_id=get("queue_id", "") or get("id", "") or None,
        sender=address.parse(get("sender", "")),
        header_from=_author(request) if end else None,
        recipients=tuple(Recipient(address.parse(name)) for name in named if name),
        size=int(size) if size.isascii() and size.isdigit() and len(size) < 16 else None,
        message_id=get("message_id", "").strip()[:998] or None if end else None,
        signatures=signatures,
        marks=_marks(request) if end else None,
    )


def _marks(request: Request) -> frozenset[str] | None:
    """The marks that the MTA found in the header (`mail.marks`); None where it did not look."""
    if "marks" not in request.values:
        return None
    return marks.ALL.intersection(request.get("marks").split(","))


def _recorded(client: Client, whose: Ownership) -> Client:
    """What is recorded of the client: of our own users the family only; nothing of a client that
    forwards mail of others, because it is not the sender's client."""
    if whose.direction is not Direction.INBOUND:
        return client.redacted()
    return Client() if whose.unknown_client else client


def _author(request: Request) -> address.Address | None:
    value = request.get("from")
    return address.header_from([value.encode("utf-8", "surrogateescape")]) if value else None


_RECIPIENT = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s,"])+', re.S)


def _split(text: str) -> list[str]:
    """The addresses of Exim's $recipients, separated by commas and blanks; a quoted local part may
    hold both."""
    return _RECIPIENT.findall(text)[:MAX_RECIPIENTS]


_NO_LIMIT = 9_999_999_999_999  # the value of $dkim_bodylength where there is no l=


def signature(request: Request, settings: Settings, *, believed: bool = True) -> Signature | None:
    """The signature of a request of Exim's `dkim` stage; None where there is no valid one.

    Not `believed`: the request may come from any user of this machine. The signature is then
    recorded with the result neutral: it proves nothing, and its domain gets no blame.
    """
    status, reason = request.get("status"), request.get("reason")
    domain = address.canonical_domain(request.get("domain")) or None
    if status not in ("pass", "fail", "invalid") or (domain and "@" in domain):
        return None
    if not believed:
        return Signature(domain=domain, result="neutral", reason=Why.NOT_BELIEVED)
    algorithm = request.get("algorithm") or None
    bits = _number(request.get("key_bits"))
    limit = _number(request.get("body_limit"))
    flags = ["testing-key"] if request.get("testing") in ("1", "yes") else []
    outcome = PASS if status == "pass" else refused(status, reason)
    if status == "pass":
        # RFC 8301 3.1 and 3.2: neither rsa-sha1 nor an RSA key under 1024 bits may pass.
        if algorithm == "rsa-sha1":
            outcome = EximOutcome("pass", "policy", Why.WEAK_HASH)
            flags.append("weak-hash")
        elif bits is not None and bits < settings.dkim.min_key_bits and not _ed25519(algorithm):
            outcome = EximOutcome("pass", "policy", Why.WEAK_KEY)
            flags.append("weak-key")
    heads, body = request.get("canon_headers"), request.get("canon_body")
    return Signature(
        domain=domain,
        selector=request.get("selector") or None,
        algorithm=algorithm,
        canonicalization=f"{heads}/{body}" if heads and body else None,
        key_bits=bits,
        body_limit=None if limit is None or limit >= _NO_LIMIT else limit,
        crypto=outcome.crypto,
        result=outcome.result,
        reason=outcome.reason,
        flags=tuple(flags),
    )


def _ed25519(algorithm: str | None) -> bool:
    """True for Ed25519 (RFC 8463), whose keys of 256 bits are not weak."""
    return (algorithm or "").startswith("ed25519")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def no_opinion(form: Form) -> bytes:
    """The answer that changes nothing: the MTA goes on as if it had not asked."""
    return b"action=DUNNO\n\n" if form is Form.POSTFIX else b"OK\n"


def answer(form: Form, stage: Stage, decision: Decision, settings: Settings) -> bytes:
    """The octets that answer the MTA with `decision` (docs/policy-protocol.md)."""
    if form is Form.POSTFIX:
        # Not DISCARD or PREPEND (access(5)): they apply to the whole message, not one recipient.
        if decision.action in (Action.REJECT, Action.TEMPFAIL) and decision.reply is not None:
            return f"action={_line(str(decision.reply))}\n\n".encode()
        return b"action=DUNNO\n\n"
    if decision.action in (Action.REJECT, Action.TEMPFAIL) and decision.reply is not None:
        return f"{_line(str(decision.reply))}\n".encode()
    if stage is not Stage.END:
        return b"OK\n"
    if decision.action is Action.DISCARD:
        return b"DISCARD\n"
    if decision.drop_recipients:
        dropped = (r.encode("utf-8", "surrogateescape") for r in decision.drop_recipients)
        return b"OK drop=" + b",".join(base64.b64encode(r) for r in dropped) + b"\n"
    if decision.tag:
        return f"TAG {settings.sender.tag_header}: {decision.reason}\n".encode()
    return b"OK\n"


def _line(text: str) -> str:
    """`text` as one line: a line end in it would begin a new attribute or answer."""
    return text.replace("\r", " ").replace("\n", " ")
