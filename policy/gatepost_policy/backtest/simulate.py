"""Live through the history once more: listings, shared clients, repeat senders, in memory.

The counterpart of `listings` and `repeats` for `backtest`: what those keep in the store while mail
comes in is kept here while mail that came passes by again. A test holds the two together.

Limits: promotion of IPv6 prefixes is not lived through.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Any

from sqlalchemy import Connection, select

from gatepost_policy import rules
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import rows
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.mail.facts import Facts, Identity, IdentityKind, Source, Stage
from gatepost_policy.rules import Known, Listed, blame
from gatepost_policy.store.tables import Listing, SenderIdentity

KNOWN_MAX = 200_000
SEEN_MAX = 100  # messages that a listing remembers, to know a retry
RETRY_S = 5 * 86_400
DAY_S = 86_400
OVER_LIMIT = (Reason.UNSCANNED.value, Reason.TOO_LARGE.value)

Decided = tuple[str, str]  # action, reason
IdentityKey = tuple[str, str]  # kind, value


@dataclass(slots=True)
class _Sentence:
    """One identity's newest listing."""

    since: float
    until: float
    seconds: int
    # (sender, Message-ID) of its evidence: was the message asked to come again?
    seen: dict[tuple[str, str], bool] = field(default_factory=dict)


@dataclass(slots=True)
class _Past:
    """How often one identity came, for those that hit a trap at some time."""

    first: float
    messages: int = 0
    traps: int = 0
    days: set[int] = field(default_factory=set)
    repeat: bool = False
    good: deque[float] = field(default_factory=deque)


class Life:
    """Everything the rules remember, lived through once more."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self.settings = settings
        trapped = connection.execute(
            select(SenderIdentity.kind, SenderIdentity.value).where(
                SenderIdentity.trap_messages > 0
            )
        ).all()
        by_hand = connection.execute(
            select(Listing.kind, Listing.value, Listing.since, Listing.until)
            .where(Listing.by_hand.is_(True))
            .order_by(Listing.since)
        ).all()
        self._past: dict[IdentityKey, _Past | None] = {(k, v): None for k, v in trapped}
        self._sentences: dict[IdentityKey, _Sentence] = {}
        self._by_hand: dict[IdentityKey, list[tuple[float, float]]] = {}
        for kind, value, since, until in by_hand:
            self._by_hand.setdefault((kind, value), []).append((since, until))
        self._nets = [
            (ip_network(value), (kind, value))
            for kind, value in self._by_hand
            if kind == "prefix" and not value.endswith(("/32", "/64"))
        ]
        everybody = (*self._past, *self._by_hand)
        self._prefixes = {value for kind, value in everybody if kind == "prefix"}
        self._addresses = {value for kind, value in everybody if kind == "sender"}
        # A signing domain speaks for what is above or below it: compare the last two labels.
        self._known: dict[str, bool] = {}  # by address: does anything join it to a trap hit?
        self._domains = {_stem(v) for k, v in everybody if k not in ("prefix", "sender")}

    def concerns(
        self, prefix: str | None, sender: str | None, author: str | None, reason: str
    ) -> bool:
        """True where anything but silence could be known about a message without a trap."""
        if prefix in self._prefixes or reason in OVER_LIMIT:
            return True
        for key in (sender, author):
            if key:
                known = self._known.get(key)
                if known is None:
                    if len(self._known) > KNOWN_MAX:
                        self._known.clear()
                    stem = _stem(key.rpartition("@")[2])
                    known = stem in self._domains or key in self._addresses
                    self._known[key] = known
                if known:
                    return True
        return bool(self._nets) and any(_inside(prefix, net) for net, _ in self._nets)

    def judge(self, facts: Facts, row: rows.Row) -> Decided:
        """The decision about one message, and its consequences."""
        traps = frozenset(r.address for r in row.recipients if r.trap)
        identities = facts.identities()
        prefix = facts.client.prefix
        good = None
        if traps and prefix is not None:
            good = self._good(prefix, facts.at)
        known = Known(
            traps=traps,
            listed=self._listed(facts),
            repeat=tuple(i for i in identities if self._is_repeat(i)),
            good_messages=good,
        )
        decision = rules.judge(facts, known, self.settings)
        if traps and facts.source in (Source.MILTER, Source.POLICY):
            for identity in blame.blame(facts, known, self.settings).identities:
                self._punish(identity, facts, decision.action is Action.TEMPFAIL)
        quiet = decision.action is Action.ACCEPT and decision.reason is Reason.NO_BAD_SIGNAL
        for identity in identities:
            self._count(identity, facts, bool(traps), quiet and not decision.shadow)
        return decision.action.value, decision.reason.value

    def _listed(self, facts: Facts) -> tuple[Listed, ...]:
        found: list[Listed] = []
        prefix = facts.client.prefix
        if prefix is not None:
            mine = Identity(IdentityKind.PREFIX, prefix, True)
            self._look((IdentityKind.PREFIX, prefix), mine, facts.at, found)
            for net, key in self._nets:
                if _inside(prefix, net):
                    self._look(key, replace(mine, value=key[1]), facts.at, found)
        for domain in facts.aligned_domains():
            signer = Identity(IdentityKind.DKIM, domain, True)
            self._look((IdentityKind.DKIM, domain), signer, facts.at, found)
        claimed = Identity(IdentityKind.SENDER, facts.sender.key, False)
        self._look((IdentityKind.SENDER, facts.sender.key), claimed, facts.at, found)
        return tuple(found)

    def _look(self, key: IdentityKey, identity: Identity, at: float, found: list[Listed]) -> None:
        sentence = self._sentences.get(key)
        until = sentence.until if sentence is not None else 0.0
        for start, end in self._by_hand.get(key, ()):
            if start <= at < end:
                until = max(until, end)
        if until > at:
            found.append(Listed(identity, until))

    def _punish(self, identity: Identity, facts: Facts, again: bool) -> None:
        key = (str(identity.kind), identity.value)
        at, sender = facts.at, self.settings.sender
        last = self._sentences.get(key)
        mark = (facts.sender.key, facts.message_id or "")
        if last is not None:
            if at < last.until:
                if len(last.seen) < SEEN_MAX:
                    last.seen.setdefault(mark, again)
                return
            if mark[1] and last.seen.get(mark) and at <= last.since + RETRY_S:
                return
        if any(start <= at < end for start, end in self._by_hand.get(key, ())):
            return
        previous = None
        if last is not None and at - last.until <= sender.listing_memory:
            previous = last.seconds
        seconds = blame.listing_seconds(previous, self._is_repeat(identity), self.settings)
        self._sentences[key] = _Sentence(at, at + seconds, seconds, {mark: again})

    def _is_repeat(self, identity: Identity) -> bool:
        past = self._past.get((str(identity.kind), identity.value))
        return past is not None and past.repeat

    def _good(self, prefix: str, at: float) -> int:
        past = self._past.get(("prefix", prefix))
        if past is None:
            return 0
        since = at - self.settings.sender.good_window
        return sum(1 for when in past.good if when >= since)

    def _count(self, identity: Identity, facts: Facts, trapped: bool, good: bool) -> None:
        key = (str(identity.kind), identity.value)
        if key not in self._past:
            return  # it never hit a trap, and never will
        past = self._past[key]
        if past is None:
            limit = self.settings.sender.good_messages
            past = self._past[key] = _Past(facts.at, good=deque(maxlen=limit))
        past.messages += 1
        past.traps += trapped
        if good and facts.stage is Stage.END:
            past.good.append(facts.at)
        if past.repeat:
            return
        sender = self.settings.sender
        if len(past.days) < sender.repeat_messages:
            past.days.add(int(facts.at // DAY_S))
        past.repeat = (
            past.traps > 0
            and past.messages >= sender.repeat_messages
            and len(past.days) >= sender.repeat_messages
            and facts.at - past.first >= sender.repeat_span
            and not self._is_crowd(identity, facts.at)
        )

    def _is_crowd(self, identity: Identity, at: float) -> bool:
        """As in `listings.flag_repeat`: mail services and shared clients are no repeat senders."""
        sender = self.settings.sender
        if identity.kind is IdentityKind.PREFIX:
            return self._good(identity.value, at) >= sender.good_messages
        if identity.kind is IdentityKind.SENDER:
            return False
        if identity.kind is IdentityKind.SPF:
            return True
        names = sender.never_list + sender.own_domains
        return any(address.is_within(identity.value, name) for name in names)


def _stem(domain: str) -> str:
    return ".".join(domain.rsplit(".", 2)[-2:])


def _inside(prefix: str | None, net: Any) -> bool:
    if not prefix or (":" in prefix) != (net.version == 6):
        return False
    return ip_address(prefix.partition("/")[0]) in net
