"""Simulate the history under other settings, with the store's own code and a store in memory.

Messages that could matter (`concerns`) are judged and recorded into an empty SQLite store with the
decision that they would get now. The store's own code makes listings, counts good mail and flags
repeat senders. So each message is judged by the past that it would have had under these settings.

Mail without a trap is recorded in batches; a batch is written earlier when a message needs to know
what is in it.

Rows from older versions lack some values: what a header said, whom a signature addressed, which b=
it had, what SPF said. Where the class of a trap hit depends on such a value, the hit keeps its
recorded decision, is counted as not known, and the same identities are listed for it.
"""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, insert, select
from sqlalchemy.pool import StaticPool

from gatepost_policy import config, listings, rules
from gatepost_policy.config import own_names
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import ingest, rows
from gatepost_policy.ingest.stored_facts import OVER_LIMIT
from gatepost_policy.journal import record
from gatepost_policy.journal.record import Json
from gatepost_policy.mail import client_address
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Facts, Identity, IdentityKind, Source, Stage
from gatepost_policy.mail.organisation import covering, organisation
from gatepost_policy.mail.real_address import names_nobody
from gatepost_policy.rules import Known, Listed
from gatepost_policy.rules.blame import blame
from gatepost_policy.store.tables import Listing, SenderIdentity
from gatepost_policy.store.whole_schema import Base

KNOWN_MAX = 200_000  # addresses
BATCH = 200
# Classes that need only the envelope, the client and the signatures: every row has these.
_CERTAIN = frozenset({Reason.OWN_HOST, Reason.NEVER_LIST, Reason.SHARED_CLIENT,
                      Reason.BACKSCATTER, Reason.FORWARDER})  # fmt: skip

Decided = tuple[str, str]  # action, reason
IdentityKey = tuple[str, str]  # kind, value


class Life:
    """What the rules remember, at the time of the message that is being judged."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self.settings = settings
        self.not_known = 0  # trap hits whose class depends on a value that their rows lack
        self.own = own_names.read(config.state_dir(settings))
        self._engine = _empty_store()
        self._memory = self._engine.connect()
        trapped = connection.execute(
            select(SenderIdentity.kind, SenderIdentity.value).where(
                SenderIdentity.trap_messages > 0
            )
        ).all()
        self._by_hand: list[dict[str, Any]] = [
            dict(row)
            for row in connection.execute(
                select(*Listing.__table__.columns)
                .where(Listing.by_hand.is_(True))
                .order_by(Listing.since.desc())
            ).mappings()
        ]
        self._held: dict[IdentityKey, float] = {}
        self._nets: list[tuple[Any, IdentityKey]] = []
        self._repeat: set[IdentityKey] = set()
        self._waiting: list[Json] = []
        self._touched: set[str] = set()  # identities of the messages in `_waiting`
        everybody = [
            *((k, v) for k, v in trapped),
            *((x["kind"], x["value"]) for x in self._by_hand),
        ]
        self._prefixes = {value for kind, value in everybody if kind == "prefix"}
        self._addresses = {value for kind, value in everybody if kind == "sender"}
        # By address key: True where it or its organisation hit a trap or was listed by hand.
        self._known: dict[str, bool] = {}
        # A domain that signs is aligned with all domains of its organisation.
        self._organisations = {
            organisation(v) for k, v in everybody if k not in ("prefix", "sender")
        }
        self._wide = [
            network
            for kind, value in everybody
            if kind == "prefix" and not value.endswith(("/32", "/64"))
            if (network := client_address.listed_network(value)) is not None
        ]

    def close(self) -> None:
        """Free the store in memory."""
        self._memory.close()
        self._engine.dispose()

    def concerns(
        self, prefix: str | None, sender: str | None, author: str | None, reason: str
    ) -> bool:
        """True where a rule could know something about this message, which went to no trap.

        `prefix`: of its client; `sender`, `author`: keys of the addresses in MAIL FROM and From.
        """
        if prefix in self._prefixes or reason in OVER_LIMIT:
            return True
        for key in (sender, author):
            if key:
                known = self._known.get(key)
                if known is None:
                    if len(self._known) > KNOWN_MAX:
                        self._known.clear()
                    name = organisation(key.rpartition("@")[2])
                    known = name in self._organisations or key in self._addresses
                    self._known[key] = known
                if known:
                    return True
        return bool(self._wide) and any(_inside(prefix, net) for net in self._wide)

    def judge(self, facts: Facts, row: rows.Row, recorded: Decided) -> Decided:
        """Judge one message and record it; returns the decision's (action, reason).

        `recorded`: (action, reason) as the store has them. Call it in the order of time.
        """
        traps = frozenset(r.address for r in row.recipients if r.trap)
        mine = {f"{i.kind}\0{i.value}" for i in facts.identities()}
        if traps or mine & self._touched:
            self._write()
        self._punish_by_hand(facts.at)
        past = listings.gather(self._memory, facts, self.settings) if traps else None
        known = Known(
            traps=traps,
            listed=self._listed(facts),
            repeat=tuple(i for i in facts.identities() if (i.kind, i.value) in self._repeat),
            past=past,
            own=self.own,
        )
        decision = rules.judge(facts, known, self.settings)
        if traps and facts.source in (Source.MILTER, Source.POLICY):
            if _rests_on_unknown(facts, known, self.settings):
                self.not_known += 1
                decision, facts = self._as_recorded(decision, facts, recorded)
        kind = "rcpt" if facts.stage is Stage.RCPT else "message"
        seen = record.Seen(kind, facts, decision, tuple(traps))
        self._waiting.append(record.message(seen))
        self._touched |= mine
        if traps or len(self._waiting) >= BATCH:
            self._write()
        return decision.action.value, decision.reason.value

    def _as_recorded(
        self, decision: Decision, facts: Facts, recorded: Decided
    ) -> tuple[Decision, Facts]:
        """The decision and facts with which the recorded decision stays, and the same identities
        are listed for it as were then."""
        action, reason = Action(recorded[0]), Reason(recorded[1])
        decision = replace(decision, action=action, reason=reason)
        if reason is not Reason.TRAP:
            return decision, facts
        signatures = tuple(replace(s, addressed=s.addressed or "trap") for s in facts.signatures)
        return decision, replace(facts, signatures=signatures)

    def _write(self) -> None:
        """Record the waiting messages, and read the listings and repeat senders that follow."""
        if not self._waiting:
            return
        at = max(float(data["at"]) for data in self._waiting)
        outcome = ingest(self._memory, self._waiting, self.settings, at)
        self._waiting.clear()
        self._touched.clear()
        if outcome.listings:
            self._look_up()
        if outcome.repeat:
            self._repeat = set(listings.repeating(self._memory))

    def _punish_by_hand(self, at: float) -> None:
        """Add the operator's own listings that had begun by `at` (Unix seconds)."""
        begun = False
        while self._by_hand and self._by_hand[-1]["since"] <= at:
            values = self._by_hand.pop()
            values.pop("id")
            self._memory.execute(
                insert(Listing).values(
                    **values,
                )
            )
            begun = True
        if begun:
            self._look_up()

    def _look_up(self) -> None:
        self._held = {(k, v): until for k, v, until in listings.holding(self._memory, 0.0)}
        self._nets = [
            (network, (kind, value))
            for kind, value in self._held
            if kind in ("prefix", "promoted") and not value.endswith(("/32", "/64"))
            if (network := client_address.listed_network(value)) is not None
        ]

    def _listed(self, facts: Facts) -> tuple[Listed, ...]:
        """What is listed of the message's identities, as `lookup.Snapshot.listed` finds it."""
        found: list[Listed] = []
        prefix, ip = facts.client.prefix, facts.client.address
        if prefix is not None and ip is not None and not names_nobody(ip):
            mine = Identity(IdentityKind.PREFIX, prefix, True)
            self._look(("prefix", prefix), mine, facts.at, found)
            self._look(("promoted", prefix), mine, facts.at, found)
            for net, key in self._nets:
                if _inside(prefix, net):
                    self._look(key, replace(mine, value=key[1]), facts.at, found)
        aligned = facts.aligned_domains()
        for domain in dict.fromkeys(above for d in aligned for above in covering(d)):
            signer = Identity(IdentityKind.DKIM, domain, True)
            for kind in ("dkim", "promoted-dkim"):
                self._look((kind, domain), signer, facts.at, found)
        if aligned and (author := facts.author_identity()) is not None:
            self._look(("author", author.value), author, facts.at, found)
        claimed = Identity(IdentityKind.SENDER, facts.sender.key, False)
        self._look(("sender", facts.sender.key), claimed, facts.at, found)
        return tuple(found)

    def _look(self, key: IdentityKey, identity: Identity, at: float, found: list[Listed]) -> None:
        until = self._held.get(key, 0.0)
        if until > at:
            found.append(Listed(identity, until, promoted=key[0].startswith("promoted")))


def _empty_store() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    return engine


def _rests_on_unknown(facts: Facts, known: Known, settings: Settings) -> bool:
    """True where a value that the row lacks could have changed the class of this trap hit."""
    reason = blame(facts, known, settings).reason
    if reason in _CERTAIN:
        return False
    if facts.marks is None and facts.stage is Stage.END:
        return True
    if not facts.aligned_domains():
        return False
    aligned: Iterable[Any] = (s for s in facts.signatures if s.proven)
    if any(s.addressed is None or s.b_hash is None for s in aligned):
        return True
    return facts.spf is None and reason in (Reason.ONE_WITNESS, Reason.REPLAYED)


def _inside(prefix: str | None, net: Any) -> bool:
    if not prefix or (":" in prefix) != (net.version == 6):
        return False
    return ip_address(prefix.partition("/")[0]) in net
