"""Decide which header fields a submitted message loses. Pure: fields and macros in, edits out.

How it works. A `Scrubber` is made once from the settings; `plan` reads one message's fields, top
to bottom, and answers with a `Plan`: the edits in the order in which they are carried out, or the
refusal where the promise of docs/privacy.md cannot be kept. It never guesses: what an operator
can change (version, token, listener) is 451, what nobody can change about this message is 554.

Our own hop (docs/privacy.md, "Postfix hides its own Received"). `submission.own_received` is
* milter: insert a field whose first line is just `Received:` at the top, after which Postfix's own
  one is within reach; then delete every Received from the lowest up, and put the client's back;
* mta: Postfix hides the client itself; we check that it was told to, and that the token table of
  the recipe for older releases is at work: smtpd puts a field with the token in, the table marks
  it, and an unmarked one shows a table that is empty. Without that field we sweep as well;
* proxy: we sit behind a second smtpd, where Received number 1 is ours by construction.

Relayed mail (a foreign signature, a list's mail, `relay_logins`) loses our own hop, nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import getaddresses
from fnmatch import translate

from gatepost_policy.address import canonical_domain, header_from, is_within, parse
from gatepost_policy.dates import parse_date, rfc5322
from gatepost_policy.decision import NOT_CONFIGURED, SCRUB_FAILED, Action, Decision, Edit, Reason
from gatepost_policy.maskhost import mask_hosts
from gatepost_policy.settings import Settings

Field = tuple[str, bytes]  # name, value with its leading space and LF folding (P_HDR_LEADSPC)

# The releases whose header code was read and run: `{v}` is "$mail_name $mail_version", and a
# snapshot's version is 3.9-20231112 or 3.9-20231112-nonprod, a candidate's 3.9.0-RC1.
_POSTFIX = re.compile(r"Postfix 3\.(\d{1,2})(?:[.-][A-Za-z0-9.-]{1,40})?\Z")
VERIFIED_MINOR = range(12)  # 3.0 to 3.11
HIDES_CLIENT_SINCE = 10  # smtpd_hide_client_session, Postfix 3.10
# What smtpd prepends in the token recipe, "TOKEN", and its header_checks make of it, "TOKEN ok".
TOKEN_FIELD = "x-gatepost-token"

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?\Z")
_QUEUE_ID = re.compile(r"[A-Za-z0-9]{1,64}\Z")
_NAME = re.compile(r"[!-9;-~]+\Z")  # RFC 5322 2.2: printable US-ASCII except the colon
_SIGNING_DOMAIN = re.compile(rb"(?:\A|;)\s*d\s*=\s*([^;\s]+)")
_SIGNED_FIELDS = re.compile(rb"(?:\A|;)\s*h\s*=([^;]*)")
_AUTHENTICATED = re.compile(r"\(Authenticated sender: ([^()\n]*)\)")
_WITH = re.compile(r"\bwith (ESMTPS?A?|UTF8SMTPS?A?|SMTP)\b")


@dataclass(frozen=True, slots=True)
class Hop:
    """What the MTA says of itself and the session, from macros. None: it said nothing."""

    name: str | None = None  # {j}
    version: str | None = None  # {v}
    queue_id: str | None = None  # {i}
    tls: bool = False
    authenticated: bool = False
    smtputf8: bool = False
    proxy: bool = False  # the listener is submission.proxy_daemon_name
    can_edit: bool = True  # the MTA lets us add and change fields, with their leading space


@dataclass(frozen=True, slots=True)
class Plan:
    """The edits, or why there are none. `hint` tells the operator what to set; it names no
    client and no user."""

    edits: tuple[Edit, ...] = ()
    relayed: bool = False
    refusal: Decision | None = None
    hint: str | None = None


def verified(version: str | None) -> bool:
    """True where `{v}` names a Postfix whose header editing we have verified."""
    match = _POSTFIX.match(version or "")
    return match is not None and int(match.group(1)) in VERIFIED_MINOR


def protocol(hop: Hop) -> str:
    """The `with` word of our field: RFC 3848, and RFC 6531 4.3 for SMTPUTF8."""
    base = "UTF8SMTP" if hop.smtputf8 else "ESMTP"
    return base + ("S" if hop.tls else "") + ("A" if hop.authenticated else "")


class Scrubber:
    """The settings of [submission], compiled. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.submission
        self.own_domains = settings.sender.own_domains
        self.relay_logins = frozenset(x.lower() for x in self.settings.relay_logins)
        patterns = [translate(glob.lower()) for glob in self.settings.remove]
        self._remove = re.compile("|".join(patterns)) if patterns else None
        self._removed: dict[str, bool] = {}

    def removes(self, name: str) -> bool:
        """True where the removal list covers the field name `name` (lower-case)."""
        known = self._removed.get(name)
        if known is None:
            known = self._remove is not None and self._remove.match(name) is not None
            if len(self._removed) < 4096:  # names are a stranger's: the memory is bounded
                self._removed[name] = known
        return known

    def relayed(self, fields: Sequence[Field], login: str | None) -> bool:
        """True for mail that somebody else wrote and one of ours passes on."""
        if login is not None and login.lower() in self.relay_logins:
            return True
        for name, value in fields:
            key = name.strip().lower()
            if key in ("list-id", "return-path") or key.startswith("arc-"):
                return True
            if key == "dkim-signature" and self._foreign(value):
                return True
        return False

    def _foreign(self, value: bytes) -> bool:
        match = _SIGNING_DOMAIN.search(value)
        if match is None:
            return True
        domain = canonical_domain(match.group(1).decode("utf-8", "replace"))
        return not any(is_within(domain, own) for own in self.own_domains)

    def plan(self, fields: Sequence[Field], hop: Hop, at: float, login: str | None) -> Plan:
        """What a submission that was received at `at` (Unix seconds) loses, and how."""
        if not hop.can_edit:
            return _refused("the MTA does not let us edit headers: use Postfix 3.0 or later")
        if self.settings.own_received == "proxy":
            found = _proxy_login(fields, hop)
            if found is None:
                return _refused(
                    "submission.own_received is proxy, and this listener is not the second hop: "
                    "set milter_macro_daemon_name there as in docs/postfix.md"
                )
            login = found
        relayed = self.relayed(fields, login)
        told = [value.strip() for name, value in fields if name.lower() == TOKEN_FIELD]
        if (token := self.settings.mta_token.encode()) and token in told:
            return _refused(
                "the token table of the submission service is empty or has another token: "
                "milterctl check postfix names the file"
            )
        edits = [Edit("delete", "X-Gatepost-Token", k) for k in range(len(told), 0, -1)]
        if not relayed:
            if any(self._unreachable(name) for name, _ in fields):
                return Plan(
                    refusal=Decision(Action.REJECT, Reason.SCRUB_IMPOSSIBLE, SCRUB_FAILED),
                    hint="a field that has to go has a name that no edit can address",
                )
            edits += self._fields(fields, hop, at, login)
        own = self._own_hop(fields, hop, at, relayed)
        if isinstance(own, Plan):
            return own
        return Plan(tuple(edits + own), relayed)

    def _unreachable(self, name: str) -> bool:
        """A field that we would edit, under a name (RFC 5322 4.5.8: `X-Mailer : x`) that the MTA
        may not find again."""
        if _NAME.match(name):
            return False
        key = name.strip().lower()
        return key in ("received", "sender", "mime-version") or self.removes(key)

    def _fields(
        self, fields: Sequence[Field], hop: Hop, at: float, login: str | None
    ) -> list[Edit]:
        """The client's fields that go or change, Received apart, highest index first."""
        edits: list[Edit] = []
        count: dict[str, int] = {}
        authors: set[str] | None = None
        for name, value in fields:
            key = name.lower()
            count[key] = index = count.get(key, 0) + 1
            if self.removes(key):
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
            elif key == "date" and self.settings.date == "utc":
                edits += _utc_date(name, value, index, fields, at)
            elif self.settings.message_id == "mask-host" and key in (
                "message-id", "in-reply-to", "references",
            ):  # fmt: skip
                edits += _mask(name, value, index, fields, hop)
        # Highest index first: deleting number 1 would renumber the ones below it, and an MTA
        # that renumbers would then lose every second one (CVE-2022-48521 in another milter).
        edits.reverse()
        return edits

    def _own_hop(
        self, fields: Sequence[Field], hop: Hop, at: float, relayed: bool
    ) -> list[Edit] | Plan:
        received = [value for name, value in fields if name.strip().lower() == "received"]
        keep = relayed or self.settings.client_received == "keep"
        if self.settings.own_received == "mta":
            if not self._hidden_by_mta(hop):
                return _refused(
                    "submission.own_received is mta, and {v} shows neither submission.mta_token "
                    "nor Postfix 3.10 with smtpd_hide_client_session: see docs/postfix.md"
                )
            if not self._unproven(fields, hop):
                return [] if keep else _in_place(received, at, 0)
        if hop.name is None or hop.queue_id is None or not (
            _HOST.match(hop.name) and _QUEUE_ID.match(hop.queue_id)
        ):
            return _refused("macros {j} and i are needed at end of message: see docs/postfix.md")
        if self.settings.own_received == "proxy":
            # The second hop has checked in `plan` that number 1 is what the first hop wrote.
            unfolded = received[0].decode("utf-8", "replace")
            spoken = _WITH.findall(unfolded)
            ours = _own_field(hop, spoken[-1] if spoken else protocol(hop), at)
            rest = [] if keep else _in_place(received[1:], at, 1)
            return [*rest, Edit("change", "Received", 1, ours)]
        if self.settings.own_received == "milter" and not verified(hop.version):
            return _refused(
                "macro {v} names no Postfix from 3.0 to 3.11 (mail_name must be Postfix), and "
                "elsewhere our own Received cannot be replaced: set submission.own_received to "
                "mta or proxy as in docs/postfix.md"
            )
        ours = _own_field(hop, protocol(hop), at)
        edits = [Edit("insert", "Received", 0, ours)]
        # All of them, from the lowest up: which one is Postfix's own depends on the version and
        # on the milters before us; deleting only number 1 leaks silently where one of those
        # had put in a Received of its own.
        edits += [Edit("delete", "Received", k) for k in range(len(received) + 1, 0, -1)]
        for position, value in enumerate(received, start=1):
            back = _writable(value) if keep else None
            # The count stays: it is how a mail loop is found (RFC 5321 6.3).
            edits.append(Edit("insert", "Received", position, back or _anonymous(value, at)))
        return edits

    def _unproven(self, fields: Sequence[Field], hop: Hop) -> bool:
        """True for the token recipe where nothing shows its table at work, and we can sweep."""
        token = self.settings.mta_token
        proof = f"{token} ok".encode()
        return (
            bool(token)
            and not any(n.lower() == TOKEN_FIELD and v.strip() == proof for n, v in fields)
            and verified(f"Postfix {(hop.version or '').partition(' ')[2]}")
        )

    def _hidden_by_mta(self, hop: Hop) -> bool:
        version = hop.version or ""
        if self.settings.mta_token:
            return self.settings.mta_token in version.split()
        match = _POSTFIX.match(version)
        if match is not None:
            return int(match.group(1)) >= HIDES_CLIENT_SINCE
        # A private mail_name is the token recipe with a token that we were not told.
        return bool(version.strip())


def _refused(hint: str) -> Plan:
    return Plan(
        refusal=Decision(Action.TEMPFAIL, Reason.UNVERIFIED_MTA, NOT_CONFIGURED), hint=hint
    )


def _own_field(hop: Hop, word: str, at: float) -> str:
    # The first line must be exactly "Received:": Postfix hides the first field whose first line
    # is a prefix of one that it added itself, and so hides this one instead of its own.
    return f"\n\tby {hop.name} (Postfix) with {word} id {hop.queue_id};\n\t{rfc5322(at)}"


def _anonymous(value: bytes, at: float) -> str:
    when = parse_date(value.rpartition(b";")[2])
    return f" by anonymous.invalid; {rfc5322(at if when is None else when)}"


def _in_place(received: Sequence[bytes], at: float, above: int) -> list[Edit]:
    """Anonymise the client's Received where they stand, `above` fields below the top."""
    return [
        Edit("change", "Received", above + k, _anonymous(received[k - 1], at))
        for k in range(len(received), 0, -1)
    ]


def _writable(value: bytes) -> str | None:
    """`value` as text that can be written back, None where its octets are not UTF-8."""
    try:
        return value.decode("utf-8").replace("\r", "")
    except UnicodeDecodeError:
        return None


def _proxy_login(fields: Sequence[Field], hop: Hop) -> str | None:
    """Who logged in at the first hop; None where Received number 1 was not written there."""
    if not hop.proxy or hop.name is None:
        return None
    first = next((v for name, v in fields if name.strip().lower() == "received"), b"")
    text = first.decode("utf-8", "replace")
    logins = _AUTHENTICATED.findall(text)
    # The last match: an EHLO name stands before it and may say what it likes.
    return logins[-1] if logins and f"by {hop.name} (" in text else None


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
    """True where this Sender tells the login and From does not (RFC 5322 3.6.2)."""
    wanted = login.lower()
    sender = header_from([value])
    if sender is None:
        return wanted in value.decode("utf-8", "replace").lower()
    key = sender.key.lower()
    same = key == wanted or ("@" not in wanted and sender.local.lower() == wanted)
    return same and key not in authors


def _signed(fields: Sequence[Field], name: bytes) -> bool:
    """True where a signature of this message covers the field `name`."""
    for field, value in fields:
        if field.lower() == "dkim-signature":
            match = _SIGNED_FIELDS.search(value)
            if match is None or name in [x.strip().lower() for x in match.group(1).split(b":")]:
                return True
    return False


def _utc_date(
    name: str, value: bytes, index: int, fields: Sequence[Field], at: float
) -> list[Edit]:
    if _signed(fields, b"date"):
        return []
    when = parse_date(value)
    got = f" {rfc5322(at if when is None else when)}"
    return [] if got.encode() == value else [Edit("change", name, index, got)]


def _mask(name: str, value: bytes, index: int, fields: Sequence[Field], hop: Hop) -> list[Edit]:
    masked = mask_hosts(value, (hop.name or "anonymous.invalid").encode())
    if masked == value or _signed(fields, name.lower().encode()):
        return []
    text = _writable(masked)
    if text is None:
        return [Edit("delete", name, index)]  # half a secret is none: raw octets cannot be written
    return [Edit("change", name, index, text)]
