"""What the MTA sent on one milter connection. Pure: values in, Facts out; no clock, no engine.

`Connection` is what holds for the whole SMTP session, `Message` what holds from MAIL FROM to the
end of the message; a new MAIL FROM gets a new `Message`, so that nothing of one message can reach
the record of the next. Values stay bytes until they are parsed here, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from gatepost_milter.protocol.peer import INET, INET6, UNIX, Peer
from gatepost_policy.dkim.body import Body
from gatepost_policy.dkim.claimed_name import claims
from gatepost_policy.mail import address, client_address, marks, trail
from gatepost_policy.mail.facts import (
    Arc,
    Client,
    Direction,
    Dmarc,
    Facts,
    Family,
    Recipient,
    Signature,
    Spf,
    Stage,
)
from gatepost_policy.rules.whose_mail import INBOUND, Ownership
from gatepost_policy.scrub import Field

RESULTS = "authentication-results"
MAX_REFUSED = 100  # recipients that the MTA refused and that are remembered, per message
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_INBOUND = Direction.INBOUND
_NO_VALUES: Sequence[bytes] = ()


@dataclass(slots=True)
class Connection:
    """One SMTP session as the MTA announced it. `local`: no client at all (sendmail(1), unix)."""

    client: Client = Client()
    local: bool = False
    helo: str | None = None
    mta_name: str | None = None  # {j}
    mta_version: str | None = None  # {v}
    daemon_name: str | None = None
    failed: bool = False  # an exception while connecting: each message gets the stance


@dataclass(slots=True)
class OwnFields:
    """For a header over a limit: the places of fields that only we may write, to delete them.

    Places count from 1 among the fields of one name. At most `limit` are kept; `overflow`: there
    are more, so the forged ones cannot all be deleted.
    """

    authserv_id: str
    tag_name: str  # lower-case
    limit: int
    results: int = 0  # how many Authentication-Results so far, of any authserv-id
    claimed: list[int] = field(default_factory=list)  # places of those with our authserv-id
    tags: int = 0  # how many tag headers
    overflow: bool = False

    def add(self, name: str, value: bytes) -> None:
        """Look at the next field of the header."""
        if self.overflow:
            return
        key = field_key(name)
        if key == RESULTS:
            self.results += 1
            if claims(value, self.authserv_id):
                self.claimed.append(self.results)
        elif key == self.tag_name:
            self.tags += 1
        if len(self.claimed) + self.tags > self.limit:
            self.overflow = True
            self.claimed.clear()


@dataclass(slots=True)
class Message:
    """One message from MAIL FROM on. `at`: Unix seconds of MAIL FROM."""

    at: float
    sender: bytes = b"<>"
    params: tuple[bytes, ...] = ()
    whose: Ownership = INBOUND
    login: str | None = None
    recipients: list[Recipient] = field(default_factory=list)
    refused: list[Recipient] = field(default_factory=list)  # 5.1.1, or a trap refused by us
    fields: list[Field] = field(default_factory=list)
    header_bytes: int = 0
    body_bytes: int | None = 0  # None: the body was skipped
    complete: bool = False  # the header: no field will follow
    over_limit: str | None = None  # the key of the limit that the header exceeds
    written: str | None = None  # the value of our Authentication-Results, where we add one
    beyond: OwnFields | None = None  # header over a limit: places of fields to delete
    opening: bytearray | None = None  # start of a multipart body for a trap, to read its marks
    hashed: Body | None = None  # hashes the body of a submission, or of mail that comes again
    body_hash: bytes | None = None  # of mail that a trusted relay may send back
    failed: bool = False  # there was an exception: the end is answered with the stance
    _named: dict[str, list[bytes]] | None = None
    _author: tuple[address.Address | None] | None = None

    @property
    def direction(self) -> Direction:
        """Inbound, submission or local, as far as is known by now."""
        return self.whose.direction

    @property
    def smtputf8(self) -> bool:
        """True where the client asked for SMTPUTF8 (RFC 6531)."""
        return any(p.upper() == b"SMTPUTF8" for p in self.params)

    def count_folds(self) -> None:
        """Add to `header_bytes` the CRs that the MTA left out: it sends a fold's CRLF as LF."""
        self.header_bytes += b"".join([value for _, value in self.fields]).count(b"\n")

    def give_up(self, what: str, own: OwnFields) -> None:
        """The header is over the limit of `what` (bytes or fields): from now on its fields are
        counted and not kept; only the places of fields that only we may write are (`own`)."""
        self.over_limit = f"milter.max_header_{what}"
        self.beyond = own
        self.count_folds()
        for name, value in self.fields:
            own.add(name, value)
        self.fields.clear()

    def beyond_limit(self, name: str, value: bytes) -> None:
        """The next field of a header that is over a limit."""
        self.header_bytes += len(name) + len(value) + 3 + value.count(b"\n")
        if self.beyond is not None:
            self.beyond.add(name, value)

    @property
    def author(self) -> address.Address | None:
        """The address in From, None where it has none; cached once the header is complete."""
        read = self._author
        if read is None:
            fields = self.values("from")
            read = (address.header_from(fields) if fields else None,)
            if self.complete:
                self._author = read
        return read[0]

    def values(self, name: str) -> Sequence[bytes]:
        """The values of all fields called `name` (lower-case) that have come so far, top to
        bottom."""
        named = self._named
        if named is None:
            named = self.named()
        return named.get(name, _NO_VALUES)

    def sorted_by_name(self, named: dict[str, list[bytes]]) -> None:
        """What `named` would find, for a header that is complete: others had to sort it anyway."""
        self._named = named

    def named(self) -> dict[str, list[bytes]]:
        """The values of all fields that have come so far, by their lower-case names.

        Cached only once the header is complete: a trap refused at RCPT asks before it comes."""
        named = self._named
        if named is None:
            named = {}
            for name, value in self.fields:
                # `field_key`, without a call for each
                key = name.lower().rstrip()
                if key in named:
                    named[key].append(value)
                else:
                    named[key] = [value]
            if self.complete:
                self._named = named
        return named


def field_key(name: str) -> str:
    """A field's name as it is compared. RFC 5322 4.5.8: blanks may stand before the colon."""
    return name.lower().rstrip()


def text(raw: bytes) -> str:
    """Octets of the envelope as text; what is not UTF-8 survives as lone surrogates."""
    return raw.decode("utf-8", "surrogateescape")


# The same clients come again and again, and `ipaddress` is slow.
_parsed = lru_cache(maxsize=4096)(client_address.parse)


def client_of(peer: Peer) -> tuple[Client, bool]:
    """(client, local): what `peer` means, as measured on Postfix.

    sendmail(1) comes as 127.0.0.1 with port 0, an smtpd on a unix socket as `localhost` of unknown
    family, IPv4-mapped IPv6 may come as either family, a link-local address with its scope.
    """
    if peer.family in (INET, INET6):
        ip = _parsed(peer.address)
        if ip is None:
            return Client(), False
        if peer.family == INET and peer.port == 0 and ip.is_loopback:
            return Client(family=Family.UNIX), True
        # Postfix writes the bare address in brackets where there is no verified name.
        name = peer.name
        unnamed = not name or name.startswith("[") or name == "unknown"
        return Client(client_address.family(ip), ip, peer.port, None if unnamed else name), False
    if peer.family == UNIX or peer.name == "localhost":
        return Client(family=Family.UNIX), True
    return Client(), False


def facts(
    connection: Connection,
    message: Message,
    *,
    queue_id: str | None = None,
    stage: Stage = Stage.END,
    signatures: tuple[Signature, ...] = (),
    arc: Arc | None = None,
    spf: Spf | None = None,
    dmarc: Dmarc | None = None,
    relayed: bool = False,
) -> Facts:
    """What is known about `message` so far.

    Of mail of our own users only the client's address family is kept, and no Message-ID, because
    mail programs write the name of their machine into it."""
    client = connection.client
    ids = message.values("message-id")
    if message.direction is not _INBOUND:
        client = client.redacted()
        ids = []
    elif message.whose.unknown_client:
        client = Client()
    elif connection.helo is not None:
        client = Client(client.family, client.address, client.port, client.name, connection.helo)
    hops = None
    # The hops of mail of our own users are private.
    if message.direction is _INBOUND and message.complete and message.over_limit is None:
        hops = trail.read(message.values("received"), connection.mta_name)
    body = message.body_bytes
    return Facts(
        at=message.at,
        direction=message.direction,
        stage=stage,
        client=client,
        trusted_relay=message.whose.trusted_relay,
        queue_id=queue_id,
        sender=address.parse(text(message.sender)),
        header_from=message.author,
        recipients=(*message.recipients, *message.refused),
        size=None if body is None else message.header_bytes + body,
        message_id=unfolded(ids[0]) if ids else None,
        signatures=signatures,
        arc=arc,
        spf=spf,
        dmarc=dmarc,
        trail=hops,
        marks=_marks(message) if message.complete else None,
        over_limit=message.over_limit,
        relayed=relayed,
        login=message.login,
    )


def _marks(message: Message) -> frozenset[str]:
    found = marks.read(message.values, message.named())
    return found if message.opening is None else found | marks.of_parts(bytes(message.opening))


def unfolded(value: bytes) -> str:
    """A field's value as one line of text."""
    return text(value).replace("\r", "").replace("\n", "").strip()
