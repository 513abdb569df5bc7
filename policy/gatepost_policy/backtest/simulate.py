"""Live through the history once more: the same recording, the same listings, a store in memory.

Mail that came passes by again. What of it could matter (`concerns`) is judged, recorded into an
empty SQLite store with the decision that it would get now, and the store's own code makes listings,
counts good mail and flags repeat senders. So the past of a message is what it would have been.

Mail without a trap waits in a batch until something asks for what it changes.

A row from before a value was recorded does not know it: what a header said it was, whom a signature
addressed, which b= it had, what SPF said. Where the class of a trap hit rests on such a value the
hit keeps what was decided, is counted as not known, and lists whom it listed.
"""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
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
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Facts, Identity, IdentityKind, Source, Stage
from gatepost_policy.mail.organisation import covering, organisation
from gatepost_policy.mail.real_address import names_nobody
from gatepost_policy.rules import Known, Listed
from gatepost_policy.rules.blame import blame
from gatepost_policy.store.schema import Base
from gatepost_policy.store.tables import Listing, SenderIdentity

KNOWN_MAX = 200_000
BATCH = 200
# Classes that rest on nothing but the envelope, the client and the signatures.
_CERTAIN = frozenset({Reason.OWN_HOST, Reason.NEVER_LIST, Reason.SHARED_CLIENT,
                      Reason.BACKSCATTER, Reason.FORWARDER})  # fmt: skip

Decided = tuple[str, str]  # action, reason
IdentityKey = tuple[str, str]  # kind, value


class Life:
    """Everything the rules remember, at the time of the message that passes by."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self.settings = settings
        self.not_known = 0  # trap hits whose class rests on what their rows do not know
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
        self._touched: set[str] = set()  # identities of what waits
        everybody = [
            *((k, v) for k, v in trapped),
            *((x["kind"], x["value"]) for x in self._by_hand),
        ]
        self._prefixes = {value for kind, value in everybody if kind == "prefix"}
        self._addresses = {value for kind, value in everybody if kind == "sender"}
        # A signing domain speaks for its organisation.
        self._known: dict[str, bool] = {}  # by address: does anything join it to a trap hit?
        self._organisations = {
            organisation(v) for k, v in everybody if k not in ("prefix", "sender")
        }
        self._wide = [
            ip_network(value)
            for kind, value in everybody
            if kind == "prefix" and not value.endswith(("/32", "/64"))
        ]

    def close(self) -> None:
        """Forget all of it."""
        self._memory.close()
        self._engine.dispose()

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
                    name = organisation(key.rpartition("@")[2])
                    known = name in self._organisations or key in self._addresses
                    self._known[key] = known
                if known:
                    return True
        return bool(self._wide) and any(_inside(prefix, net) for net in self._wide)

    def judge(self, facts: Facts, row: rows.Row, recorded: Decided) -> Decided:
        """The decision about one message, and its consequences."""
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
        """What was decided stays, and whoever was listed for it is listed again."""
        action, reason = Action(recorded[0]), Reason(recorded[1])
        decision = replace(decision, action=action, reason=reason)
        if reason is not Reason.TRAP:
            return decision, facts
        signatures = tuple(replace(s, addressed=s.addressed or "trap") for s in facts.signatures)
        return decision, replace(facts, signatures=signatures)

    def _write(self) -> None:
        """Record what waits; listings and repeat senders follow from it."""
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
        """The operator's listings begin when they began."""
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
            (ip_network(value), (kind, value))
            for kind, value in self._held
            if kind in ("prefix", "promoted") and not value.endswith(("/32", "/64"))
        ]

    def _listed(self, facts: Facts) -> tuple[Listed, ...]:
        """As `lookup.Snapshot.listed`."""
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
    """True where what the row does not know could have made the hit another one."""
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
