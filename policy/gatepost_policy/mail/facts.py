"""Everything known about one message, as frozen values. Pure: no clock, no look-up.

A source (milter, policy service, log importer) gathers these, the rules judge them, the journal
keeps them. None means that a value is not known; an empty tuple means that nothing was found.

Privacy: a submission's `Client` holds its family and nothing else (`Client.redacted`), and the
login never gets into a record: `Facts.login` is for the rules alone.
"""

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from gatepost_policy.mail.address import NULL, Address
from gatepost_policy.mail.dkim_reason import Why
from gatepost_policy.mail.message_dataclass import dataclass
from gatepost_policy.mail.organisation import same as same_organisation
from gatepost_policy.mail.real_address import real


class Direction(StrEnum):
    """Whose mail this is."""

    INBOUND = "inbound"
    SUBMISSION = "submission"
    LOCAL = "local"


class Family(StrEnum):
    """How the client reached us. IPv4-mapped IPv6 is ipv4."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    UNIX = "unix"
    UNKNOWN = "unknown"


class Source(StrEnum):
    """Which part of gatepost saw the message."""

    MILTER = "milter"
    POLICY = "policy"
    EXIM_LOG = "exim-log"
    POSTFIX_LOG = "postfix-log"


class Stage(StrEnum):
    """How far the SMTP session has come when the rules are asked."""

    RCPT = "rcpt"
    END = "end"


@dataclass(frozen=True, slots=True)
class Client:
    """The SMTP client as the MTA names it."""

    family: Family = Family.UNKNOWN
    address: IPv4Address | IPv6Address | None = None
    port: int | None = None
    name: str | None = None  # verified host name, None where there is none
    helo: str | None = None

    @property
    def prefix(self) -> str | None:
        """The identity of this client: IPv4 as /32, IPv6 as /64, in CIDR text."""
        return client_prefix(self.address) if self.address is not None else None

    def redacted(self) -> "Client":
        """This client without address, port and names: only this may be recorded of a
        submission.
        """
        return Client(family=self.family)


def client_prefix(address: IPv4Address | IPv6Address, v6_bits: int = 64) -> str:
    """`address` as the prefix that identifies its owner: v4 /32, v6 /64 (or `v6_bits`).

    An IPv6 address that stands for an IPv4 host (NAT64, 6to4, mapped) counts as that host.
    """
    address = real(address)
    if address.version == 4:
        return f"{address}/32"
    net: IPv4Network | IPv6Network = ip_network((int(address) >> 64 << 64, 64))
    if v6_bits != 64:
        net = net.supernet(new_prefix=v6_bits)
    return str(net)


@dataclass(frozen=True, slots=True)
class Recipient:
    """One RCPT TO. `accepted` is False where the MTA had already refused it (unknown user)."""

    address: Address
    accepted: bool = True


@dataclass(frozen=True, slots=True)
class Signature:
    """One DKIM-Signature field and what became of it, in the words of RFC 8601 2.7.1.

    `crypto` is what the cryptography alone says (pass, fail, None where it was not tried); RFC 8301
    and the limits of `[dkim]` show in `result` and `reason`. `key_bits` is in bits; `body_limit`
    (l=) in octets; `unsigned_bytes` is how many octets of the canonical body `l=` left uncovered
    (None: no `l=`, or not known).
    """

    domain: str | None = None
    selector: str | None = None
    algorithm: str | None = None
    canonicalization: str | None = None
    key_bits: int | None = None
    body_limit: int | None = None
    crypto: str | None = None
    result: str = "none"
    reason: Why | None = None
    unsigned_bytes: int | None = None
    flags: tuple[str, ...] = ()  # testing-key, weak-hash, weak-key, expired, partial, skipped
    b_prefix: str | None = None  # first 8 characters of b=, for header.b (RFC 6008)
    # hash of the whole b=: the same value again means the same message again
    b_hash: str | None = None
    # The addresses in the To and Cc that h= covers; None where it is not known. Never recorded.
    signed_to: tuple[str, ...] | None = None
    addressed: str | None = None  # whom they name, as in `mail.addressed`

    @property
    def proven(self) -> bool:
        """True where this signature proves which domain sent the message, so that it may be listed.

        The crypto passed, the whole body is covered, an RSA key has 1024 bits or more. rsa-sha1 is
        allowed here: a spammer cannot forge it, so it shows who signed. A pass from a log without
        algorithm or RSA key size proves nothing.
        """
        if self.crypto != "pass" or not self.domain:
            return False
        # What RFC 6376 refuses proves nothing, even where the arithmetic is right.
        if self.result not in ("pass", "policy"):
            return False
        if self.unsigned_bytes or (self.body_limit is not None and self.unsigned_bytes is None):
            return False
        if not {"testing-key", "expired"}.isdisjoint(self.flags):
            return False
        if self.algorithm is None:
            return False  # a pass in a log does not say how strong the key was
        rsa = self.algorithm.startswith("rsa")
        return not rsa or (self.key_bits is not None and self.key_bits >= 1024)


@dataclass(frozen=True, slots=True)
class Arc:
    """The state of the ARC chain: cv none, pass or fail (RFC 8617 4.4)."""

    cv: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SpfCheck:
    """What SPF says of one identity, in the words of RFC 7208 2.6.

    `domain` is whose record was asked for; `mechanism` the term of it that matched, as it stands
    there (None: none did); `reason` says why where the result is an error.
    """

    result: str  # none neutral pass fail softfail temperror permerror
    domain: str | None = None
    mechanism: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Spf:
    """SPF of the two identities of a message (RFC 7208 2.3, 2.4).

    The MAIL FROM identity of a bounce is postmaster at the HELO name.
    """

    mail_from: SpfCheck
    helo: SpfCheck


@dataclass(frozen=True, slots=True)
class Dmarc:
    """What DMARC says of the author's domain (RFC 9989).

    `organisation` is the organisational domain of `domain`, the header From's; `policy` what the
    domain's owner asks for where it fails (None: no record); `aligned` which of dkim and spf
    passed for a domain that is aligned.
    """

    result: str  # none pass fail temperror permerror
    domain: str
    organisation: str | None = None
    policy: str | None = None  # none quarantine reject
    aligned: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TrailHop:
    """How one server before ours got the message, by its own Received; None where it does not
    say.
    """

    family: Family | None
    protocol: str | None  # ESMTPS, HTTP, ..., as it stands there


class IdentityKind(StrEnum):
    """The kinds of identity under which a sender's history is kept."""

    PREFIX = "prefix"
    DKIM = "dkim"
    SPF = "spf"  # the MAIL FROM's domain, where SPF passed: reported, never punished
    SENDER = "sender"
    SENDER_DOMAIN = "sender-domain"
    FROM_DOMAIN = "from-domain"
    AUTHOR = "author"  # the From under an aligned, proven d=


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity of a sender. `proven` is False for a mere claim (MAIL FROM, From)."""

    kind: IdentityKind
    value: str
    proven: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """One message (stage END) or one RCPT TO (stage RCPT), as one source saw it."""

    at: float  # Unix time, seconds, UTC, of receipt
    source: Source = Source.MILTER
    direction: Direction = Direction.INBOUND
    stage: Stage = Stage.END
    client: Client = Client()
    trusted_relay: bool = False
    queue_id: str | None = None
    sender: Address = NULL
    header_from: Address | None = None
    recipients: tuple[Recipient, ...] = ()
    size: int | None = None  # octets, header and body
    message_id: str | None = None
    signatures: tuple[Signature, ...] = ()
    arc: Arc | None = None
    spf: Spf | None = None  # None: not evaluated
    dmarc: Dmarc | None = None  # None: not evaluated
    # What the header says it is, as in `mail.marks`; None where it is not known.
    marks: frozenset[str] | None = None
    # The hops before ours, newest first, as they claim; None: not known, or not inbound mail.
    trail: tuple[TrailHop, ...] | None = None
    over_limit: str | None = None  # the limit that was exceeded: the message was not scanned
    relayed: bool = False  # a submission of mail that somebody else wrote
    login: str | None = None  # never recorded
    untraced: bool = False  # it should have got an X-Gatepost-Trace field, but there was no key
    dropped: tuple[str, ...] = ()  # names of fields on no list that a submission lost

    def aligned_domains(self) -> tuple[str, ...]:
        """Proven d= of the organisation of From or of the envelope sender (relaxed alignment).

        Relaxed: a.example.org is aligned with b.example.org.
        """
        claims = [a.domain for a in (self.header_from, self.sender) if a is not None and a.domain]
        found: list[str] = []
        for signature in self.signatures:
            domain = signature.domain
            if not signature.proven or domain is None or domain in found:
                continue
            # The verifier never passes a d= that is a public suffix, so no organisation is a whole
            # registry.
            if any(same_organisation(c, domain) for c in claims):
                found.append(domain)
        return tuple(found)

    @property
    def spf_domain(self) -> str | None:
        """The domain that let this client send for it: the MAIL FROM's, where SPF passed.

        Other customers of the same hoster pass as well, so it does not prove which of them sent it.
        A bounce has no MAIL FROM domain.
        """
        spf = self.spf
        if spf is None or spf.mail_from.result != "pass" or self.sender.null:
            return None
        return spf.mail_from.domain

    def says(self, mark: str) -> bool:
        """True where the header has this mark; False where it is not known."""
        return self.marks is not None and mark in self.marks

    def author_identity(self) -> "Identity | None":
        """The author's address, where a proven d= of its own organisation signed it."""
        author = self.header_from
        if author is None or not author.domain:
            return None
        if not any(same_organisation(author.domain, d) for d in self.aligned_domains()):
            return None
        # Without its tag, in small letters: one account writes as dave+1@, dave+2@ and Dave@.
        return Identity(IdentityKind.AUTHOR, author.trap_key, True)

    def identities(self) -> tuple[Identity, ...]:
        """All identities of this message, proven ones first; empty unless it is inbound."""
        if self.direction is not Direction.INBOUND:
            return ()
        out: list[Identity] = []
        if self.client.prefix is not None:
            out.append(Identity(IdentityKind.PREFIX, self.client.prefix, True))
        seen: set[str] = set()
        for signature in self.signatures:
            if signature.proven and signature.domain and signature.domain not in seen:
                seen.add(signature.domain)
                out.append(Identity(IdentityKind.DKIM, signature.domain, True))
        if self.spf_domain:
            out.append(Identity(IdentityKind.SPF, self.spf_domain, True))
        if not self.sender.null:
            out.append(Identity(IdentityKind.SENDER, self.sender.key, False))
            if self.sender.domain:
                out.append(Identity(IdentityKind.SENDER_DOMAIN, self.sender.domain, False))
        if self.header_from is not None and self.header_from.domain:
            out.append(Identity(IdentityKind.FROM_DOMAIN, self.header_from.domain, False))
        return tuple(out)
