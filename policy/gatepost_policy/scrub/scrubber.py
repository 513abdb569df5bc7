"""Decide which header fields are removed from a submitted message. Pure: fields and macros in,
edits out.

How it works. A `Scrubber` is made once from the settings; `plan` reads one message's fields, top to
bottom, and answers with a `Plan`: the edits in the order in which they are carried out, or the
refusal where the promise of docs/privacy.md cannot be kept. It never guesses: the refusal is 451
where the operator can change the cause (version, token, listener), and 554 where the message itself
is the cause.

`own_received` decides about our own Received, `field_names` about fields by their name. A field on
no list is removed where its value names the client (`client_words`) or an address of a private
network, or where `unknown_fields` is drop. From relayed mail (a foreign signature, a list's mail,
`relay_logins`) only our own Received is removed, and those by which one of our users handed it in.
"""

import re
from collections.abc import Sequence
from email.utils import getaddresses
from itertools import dropwhile

from gatepost_policy.config.field_lists import PROGRAM_ADDRESSES, PROGRAM_TEXT
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail import received
from gatepost_policy.mail.address import canonical_domain, header_from, is_within, parse
from gatepost_policy.mail.dates import DATES, SENT, parse_date, rfc5322
from gatepost_policy.mail.decision import SCRUB_FAILED, Action, Decision, Edit, Reason
from gatepost_policy.scrub.client_words import NOBODY, ClientWords, has_inside_address
from gatepost_policy.scrub.field_names import Fate, FieldNames
from gatepost_policy.scrub.mask_host import OTHER_IDS, OWN_IDS, mask_hosts
from gatepost_policy.scrub.own_received import (
    TOKEN_FIELD,
    Field,
    Hop,
    Plan,
    own_hop,
    proxy_login,
    refused,
    writable,
)

# The field in which a scanner on the way may name the client.
RESULTS = "authentication-results"
_TEXT = frozenset(name.lower() for name in PROGRAM_TEXT)
_ADDRESSES = frozenset(name.lower() for name in PROGRAM_ADDRESSES)
TRACE_FIELD = "x-gatepost-trace"
_NAME = re.compile(r"[!-9;-~]+\Z")  # RFC 5322 2.2: printable US-ASCII except the colon
_FROM = re.compile(rb"\s*from\s", re.I)
_SIGNING_DOMAIN = re.compile(rb"(?:\A|;)\s*d\s*=\s*([^;\s]+)")
_SIGNED_FIELDS = re.compile(rb"(?:\A|;)\s*h\s*=([^;]*)")


class Scrubber:
    """The settings of [submission], compiled. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.submission
        self.own_domains = settings.sender.own_domains
        self.relay_logins = frozenset(x.lower() for x in self.settings.relay_logins)
        self.names = FieldNames(self.settings)
        self._drops = self.settings.unknown_fields == "drop"

    def relayed(self, fields: Sequence[Field], login: str | None) -> bool:
        """True for mail that somebody else wrote and one of our users passes on."""
        if login is not None and login.lower() in self.relay_logins:
            return True
        listed = False
        hops: list[bytes] = []
        for name, value in fields:
            key = name.strip().lower()
            if key.startswith("arc-") or (key == "dkim-signature" and self._foreign(value)):
                return True
            listed = listed or key == "list-id"
            if key == "received":
                hops.append(value)
        # An application may send its own news with a List-Id. Mail that a list passes on has a
        # Received field of the transfer to the list.
        return listed and _transferred(hops)

    def _foreign(self, value: bytes) -> bool:
        match = _SIGNING_DOMAIN.search(value)
        if match is None:
            return True
        domain = canonical_domain(match.group(1).decode("utf-8", "replace"))
        return not any(is_within(domain, own) for own in self.own_domains)

    def plan(
        self,
        fields: Sequence[Field],
        hop: Hop,
        at: float,
        login: str | None,
        client: ClientWords = NOBODY,
    ) -> Plan:
        """The edits for a submission that was received at `at` (Unix seconds), or its refusal.

        `client` has the words that name the client that handed it in. Never raises.
        """
        if not hop.can_edit:
            return refused("the MTA does not let us edit headers: use Postfix 3.0 or later")
        if self.settings.own_received == "proxy":
            found = proxy_login(fields, hop)
            if found is None:
                return refused(
                    "submission.own_received is proxy, and this listener is not the second hop: "
                    "set milter_macro_daemon_name there as in docs/postfix.md"
                )
            login = found
            first = next(v for name, v in fields if name.strip().lower() == "received")
            client = ClientWords.first_hop(first, login, [hop.name or "", *self.own_domains])
        relayed = self.relayed(fields, login)
        told = [value.strip() for name, value in fields if name.lower() == TOKEN_FIELD]
        if (token := self.settings.mta_token.encode()) and token in told:
            return refused(
                "the token table of the submission service is empty or has another token: "
                "milterctl check postfix names the file"
            )
        edits = [Edit("delete", "X-Gatepost-Token", k) for k in range(len(told), 0, -1)]
        dropped: tuple[str, ...] = ()
        if not relayed:
            drops = self._drops and not any(name.lower().startswith("list-") for name, _ in fields)
            if any(self._unreachable(name, value, client, drops) for name, value in fields):
                return Plan(
                    refusal=Decision(Action.REJECT, Reason.SCRUB_IMPOSSIBLE, SCRUB_FAILED),
                    hint="a field that has to go has a name that no edit can address",
                )
            gone = self._unknown(fields, client, drops)
            dropped = tuple(fields[n][0].lower() for n in sorted(gone))
            edits += self._fields(fields, hop, at, login, client, gone)
        theirs = self._handed_in(fields, hop, client) if relayed else len(fields)
        own = own_hop(self.settings, fields, hop, at, theirs)
        if isinstance(own, Plan):
            return own
        return Plan(tuple(edits + own), relayed, dropped=dropped, login=login)

    def _handed_in(self, fields: Sequence[Field], hop: Hop, client: ClientWords) -> int:
        """How many Received fields on top of a relayed message say how one of our users handed it
        in (webmail, Dovecot's proxy).

        They name our user, as our own Received does.
        """
        count = 0
        for name, value in fields:
            if name.strip().lower() != "received":
                continue
            seen = received.read(value)
            by = canonical_domain(seen.by or "")
            here = by == canonical_domain(hop.name or "") or any(
                is_within(by, own) for own in self.own_domains
            )
            if not (seen.submitted and (here or client.told_by(value))):
                break
            count += 1
        return count

    def _unknown(self, fields: Sequence[Field], client: ClientWords, drops: bool) -> frozenset[int]:
        """The positions of fields on no removal list that are removed all the same."""
        gone: set[int] = set()
        signed = _signed_names(fields) if drops else ()
        beside: ClientWords | None = None
        for position, (name, value) in enumerate(fields):
            key = name.lower()
            fate = self.names.fate(key)
            unknown, odd = fate is Fate.UNKNOWN, fate is Fate.ODD
            if key in _ADDRESSES:
                if beside is None:
                    beside = client.beside([v for n, v in fields if n.lower() == "from"])
                if beside.told_by(value):
                    gone.add(position)
                continue
            if not (unknown or odd or key in _TEXT) or key in (TOKEN_FIELD, TRACE_FIELD):
                continue
            # A field that names the client is removed even where a signature covers it, as one on
            # the removal list is.
            if (
                client.told_by(value)
                or ((unknown or odd) and has_inside_address(value))
                or (drops and unknown and signed is not None and key.encode() not in signed)
            ):
                gone.add(position)
        return frozenset(gone)

    def _unreachable(self, name: str, value: bytes, client: ClientWords, drops: bool) -> bool:
        """True for a field that has to be edited, but has a name that the MTA may not find again
        (RFC 5322 4.5.8: `X-Mailer : x`).
        """
        if _NAME.match(name):
            return False
        key = name.strip().lower()
        fate = self.names.fate(key)
        nameless = fate in (Fate.UNKNOWN, Fate.ODD)
        if (fate is Fate.UNKNOWN and drops) or (nameless and has_inside_address(value)):
            return True
        if nameless or key in _TEXT or key in _ADDRESSES:
            return key == "sender" or client.told_by(value)
        if key in DATES:
            return self.settings.date == "utc"
        return fate is Fate.GOES or key in ("received", "mime-version", *OWN_IDS)

    def _fields(
        self,
        fields: Sequence[Field],
        hop: Hop,
        at: float,
        login: str | None,
        client: ClientWords,
        gone: frozenset[int],
    ) -> list[Edit]:
        """The edits that remove or change the client's fields except Received, highest index
        first.
        """
        edits: list[Edit] = []
        count: dict[str, int] = {}
        authors: set[str] | None = None
        for position, (name, value) in enumerate(fields):
            key = name.lower()
            count[key] = index = count.get(key, 0) + 1
            # A trace field from the client is always removed, even where the lists would keep it:
            # only gatepost may write one.
            if position in gone or key == TRACE_FIELD or self.names.removes(key):
                edits.append(Edit("delete", name, index))
            elif key == "mime-version":
                # RFC 2045 4: the comment is where clients put their own name.
                if b"(" in value:
                    edits.append(Edit("change", name, index, " 1.0"))
            elif key == "sender" and login:
                if authors is None:
                    authors = _authors(fields)
                if _names_login(value, login, authors):
                    edits.append(Edit("delete", name, index))
            elif key in DATES and self.settings.date == "utc":
                edits += _utc_date(name, value, index, fields, at)
            elif self.settings.message_id == "mask-host" and key in (*OWN_IDS, *OTHER_IDS):
                edits += _mask(name, value, index, fields, hop, client)
        # Highest index first: deleting number 1 would renumber the ones below it, and an MTA
        # that renumbers would then lose every second one (CVE-2022-48521 in another milter).
        edits.reverse()
        return edits


def _transferred(hops: Sequence[bytes]) -> bool:
    """True where one of these Received fields, top to bottom, shows a transfer between servers.

    Those on top by which a user handed the mail in (webmail, Dovecot's proxy, the first hop of mode
    proxy) do not count: they name our own user.
    """
    rest = dropwhile(lambda value: received.read(value).submitted, hops)
    return any(_FROM.match(value) for value in rest)


def _authors(fields: Sequence[Field]) -> set[str]:
    values = [v.decode("utf-8", "replace") for name, v in fields if name.lower() == "from"]
    one = header_from([v for name, v in fields if name.lower() == "from"])
    if one is not None:
        return {one.key.lower()}
    try:
        return {parse(found).key.lower() for _, found in getaddresses(values)}
    except (ValueError, TypeError, IndexError, AttributeError):
        return set()  # the standard library's parser fails in these ways on hostile input


def _names_login(value: bytes, login: str, authors: set[str]) -> bool:
    """True where this Sender names the login and From does not (RFC 5322 3.6.2)."""
    wanted = login.lower()
    sender = header_from([value])
    if sender is None:
        return wanted in value.decode("utf-8", "replace").lower()
    key = sender.key.lower()
    same = key == wanted or ("@" not in wanted and sender.local.lower() == wanted)
    return same and key not in authors


def _signed_names(fields: Sequence[Field]) -> frozenset[bytes] | None:
    """The names (lower-case) that the signatures of this message cover; None: one of them has no
    h=, so any field may be covered.
    """
    found: set[bytes] = set()
    for field, value in fields:
        if field.lower() == "dkim-signature":
            match = _SIGNED_FIELDS.search(value)
            if match is None:
                return None
            found.update(name.strip().lower() for name in match.group(1).split(b":"))
    return frozenset(found)


def _signed(fields: Sequence[Field], name: bytes) -> bool:
    """True where a signature of this message covers the field `name`."""
    names = _signed_names(fields)
    return names is None or name in names


def _utc_date(
    name: str, value: bytes, index: int, fields: Sequence[Field], at: float
) -> list[Edit]:
    key = name.lower()
    if _signed(fields, key.encode()):
        return []
    when = parse_date(value)
    if when is None and key not in SENT:
        return []  # unreadable, and not the time of sending: there is no time to replace it with
    got = f" {rfc5322(at if when is None else when)}"
    return [] if got.encode() == value else [Edit("change", name, index, got)]


def _mask(
    name: str,
    value: bytes,
    index: int,
    fields: Sequence[Field],
    hop: Hop,
    client: ClientWords,
) -> list[Edit]:
    key = name.lower()
    masked = mask_hosts(value, (hop.name or "anonymous.invalid").encode(), key, client)
    if masked == value or _signed(fields, key.encode()):
        return []
    text = writable(masked)
    if text is None:
        # remove the whole field: libmilter cannot write octets that are not UTF-8
        return [Edit("delete", name, index)]
    return [Edit("change", name, index, text)]
