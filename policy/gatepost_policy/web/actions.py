"""What can be done from a page. Each act is kept with who did it and why, and can be undone.

`question` says beforehand whom an act would hit. `act` is part of the caller's transaction, `undo`
has its own ones; what they changed is one line in the log. The actor is the user whom the proxy
names (`--user-header`); without that field it is not known and kept as empty: anybody who can
reach the socket may act.
"""

import logging
from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import Connection, Engine, select, update

from gatepost_policy import listings, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import trap_marks
from gatepost_policy.listings.guard import COUNT_MAX, DAYS
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import Identity, IdentityKind
from gatepost_policy.store import acts, writing
from gatepost_policy.store.tables import SenderIdentity
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural

log = logging.getLogger("gatepost.web")
NOTE_MAX = 500
ASKED = ("list", "trap")  # acts that have mail refused: the user confirms them first
WANTED = "want list, forgive, trap, untrap or note"


class Sayings:
    """Signs and reads the sentence that says what was done: a parameter of the next page's URL.

    The page shows the sentence as a fact. So it is signed with `key`, which only this process
    knows: a link on another site must not make the page say that something was done.
    """

    def __init__(self, key: bytes) -> None:
        self._signer = URLSafeSerializer(key, salt="done")

    def sign(self, text: str) -> str:
        """`text` with its signature, as the value of a URL parameter."""
        return str(self._signer.dumps(text))

    def read(self, given: str | None) -> str | None:
        """The text; None where it was not signed here."""
        try:
            return None if given is None else str(self._signer.loads(given))
        except BadSignature:
            return None


@dataclass(frozen=True, slots=True)
class Question:
    """What an act would do, said before it is done: a title and sentences."""

    title: str
    lines: tuple[str, ...]
    warning: str | None  # why it may be a mistake; None: no reason is known


def question(
    connection: Connection, name: str, value: str, now: float, settings: Settings
) -> Question:
    """Which known mail the act `name` (list or trap) on `value` would have hit, as of `now`.

    `now`: Unix seconds. Raises ValueError for another name and for a bad `value`.
    """
    if name == "list":
        identity = _punishable(value)
        hit = listings.would_have_hit(connection, identity, now)
        count = f"{hit} or more" if hit >= COUNT_MAX else plural(hit, "message")
        met = (
            f"It would have met {count} of the last {DAYS} days.",
            f"It ends after {plural(settings.sender.listing_first // 3600, 'hour')}.",
        )
        refusal = listings.refusal(identity, settings)
        return Question(f"List {identity.value}?", met, refusal)
    if name != "trap":
        raise ValueError("want list or trap")
    kind, key = traps.classify(value)
    used = traps.in_use(connection, value, now=now)
    told = traps.past(connection, kind, key)
    lines = (
        f"{plural(told.messages, 'message')} of {plural(told.senders, 'sender')} to it are known"
        + (f", in {plural(told.months, 'month')}" if told.messages else "")
        + (": each of them becomes a trap hit." if told.messages else "."),
        *(f"{sender or '<>'}: {plural(count, 'message')}" for sender, count in told.most),
    )
    warning = None
    if used is not None:
        warning = "it is in use: " + ", ".join(
            said
            for said in (
                used.accepted
                and f"{plural(used.accepted, 'message')} of {plural(used.senders, 'sender')} "
                f"accepted in the last {traps.USE_DAYS} days",
                used.wrote and f"{plural(used.wrote, 'message')} named it as the sender",
            )
            if said
        )
    elif told.accepted:
        warning = f"{plural(told.accepted, 'message')} to it had been accepted: somebody reads it"
    return Question(f"Make {shown(key)} a trap?", lines, warning)


def act(
    connection: Connection,
    name: str,
    value: str,
    note: str,
    at: float,
    settings: Settings,
    actor: str = "",
) -> str:
    """Carry out one act at `at` (Unix seconds); returns what was done, in words.

    To add a trap that is one already, or to remove what is none, is neither kept nor logged.
    Raises ValueError for an unknown `name` and for a bad `value`.
    """
    note = note.strip()[:NOTE_MAX]
    match name:
        case "list":
            identity = _punishable(value)
            seconds = settings.sender.listing_first
            listings.punish(connection, identity, seconds=seconds, at=at, note=note)
            subject = identity.value
            done = f"{subject} is listed for {plural(seconds // 3600, 'hour')}"
        case "forgive":
            identity = listings.identify(value)
            count = listings.forgive(connection, identity, at=at, note=note)
            subject = identity.value
            done = f"{plural(count, 'listing')} of {subject} lifted"
        case "trap":
            subject = traps.classify(value)[1]
            added = traps.add(connection, value, at=at, source="web", note=note)
            if not added:
                return f"{value} was a trap already"
            done = f"{value} is a trap"
        case "untrap":
            subject = traps.classify(value)[1]
            if not traps.remove(connection, value, at=at):
                return f"{value} was no trap"
            done = f"{value} is no trap any more"
        case "note":
            subject = _values(value)[0]
            if not set_note(connection, value, note):
                raise ValueError("want a sender that was seen before")
            done = f"note on {value} kept"
        case _:
            raise ValueError(WANTED)
    acts.keep(connection, name, subject, at=at, actor=actor, note=note)
    _say(name, value, note, actor)
    return done


def undo(engine: Engine, number: int, at: float, settings: Settings, actor: str = "") -> str:
    """Take back the act with this `number`, at `at` (Unix seconds), with its consequences.

    Returns what was done, in words. Raises ValueError where the act does not exist or is undone
    already, StoreError where the store does not answer.
    """
    with writing(engine) as connection:
        done = acts.one(connection, number)
        if done is None or not acts.take_back(connection, number, at=at, actor=actor):
            raise ValueError("there is nothing to undo")
        match done.name:
            case "list":
                identity = listings.identify(done.value)
                again = listings.unpunish(connection, identity, punished=done.at, at=at)
                said = f"{done.value} is " + (
                    "listed as before" if again else "not listed by hand any more"
                )
            case "forgive":
                identity = listings.identify(done.value)
                count = listings.restore(connection, identity, forgiven=done.at, at=at)
                said = f"{plural(count, 'listing')} of {done.value} restored"
            case "trap":
                traps.remove(connection, done.value, at=at)
                said = f"{done.value} is no trap any more"
            case "untrap":
                traps.add(connection, done.value, at=at, source="web", note=done.note)
                said = f"{done.value} is a trap again"
            case _:
                before = [a for a in acts.about(connection, [done.value]) if a.name == "note"]
                kept = next((a.note for a in before if a.undone is None and a.at < done.at), "")
                set_note(connection, done.value, kept)
                said = f"the note on {done.value} is as it was"
    if done.name == "trap":
        # After an undo it counts as never having been a trap: its hits are taken back, and so are
        # the listings that have no other evidence.
        hits = trap_marks.take_back(engine, settings, done.value)
        said += f", {plural(hits, 'hit')} taken back"
    _say(f"undo-{done.name}", done.value, "", actor)
    return said


def _say(name: str, value: str, note: str, actor: str) -> None:
    text = 'action=%s object="%s" note="%s" actor="%s"'
    log.info(text, name, shown(value), shown(note), shown(actor))


def _punishable(value: str) -> Identity:
    identity = listings.identify(value)
    if identity.kind is IdentityKind.SENDER:
        raise ValueError("want a client address, a prefix or a domain: an address is a claim")
    return identity


def set_note(connection: Connection, value: str, note: str) -> int:
    """Store `note` with every known identity of `value`; '' deletes it. Returns how many there are:
    0 for a value that was never seen."""
    return connection.execute(
        update(SenderIdentity)
        .where(SenderIdentity.value.in_(_values(value)))
        .values(note=note or None)
    ).rowcount


def notes(connection: Connection, value: str) -> list[str]:
    """The notes on a sender, client or domain, each once."""
    found = connection.execute(
        select(SenderIdentity.note)
        .where(
            # The index begins with the kind; without it the whole table would be read.
            SenderIdentity.kind.in_([str(kind) for kind in IdentityKind]),
            SenderIdentity.value.in_(_values(value)),
            SenderIdentity.note.is_not(None),
        )
        .distinct()
    )
    return [str(note) for (note,) in found]


def _values(value: str) -> list[str]:
    """The values, as the store has them, of the identities that `value` may mean."""
    try:
        return [listings.identify(value).value]
    except ValueError:
        return [address.parse(value).key]
