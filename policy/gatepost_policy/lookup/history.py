"""What is known of those who may be listed: one bounded read of the store, in a thread of its own.

Why a thread: libmilter calls back on threads whose Python state belongs to a session and is freed
with it. Code that asks for "the state of this thread" (PyGILState_Ensure) crashes there; sqlite3
does so when it closes a connection on which SQLAlchemy has made a function. Workers died of it
(SIGSEGV) when trap hits overlapped. A thread that Python has started keeps its state as long as it
lives.

Rule: never raises, never creates or upgrades a store, and answers within WAIT_S, with None where
the store did not answer; then it is not asked again for PAUSE_S. A connection that takes longer (a
PostgreSQL leader is gone, its successor not yet there) is made while no message waits, and is used
for the next question. The first question of a process also waits until the database modules are
loaded (LOAD_S at most).

In a storm the same question comes again and again: an answer is used again for FRESH_S, because the
recorder can hardly have written anything in so short a time.
"""

import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from gatepost_policy.mail.organisation import organisation

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from gatepost_policy.config.settings import Settings
    from gatepost_policy.mail.facts import Facts
    from gatepost_policy.rules import Past

READ_TIMEOUT_MS = 150
# Seconds. The whole answer takes less than a quarter of a second.
WAIT_S = 0.15
LOAD_S = 2.5  # seconds to import the database modules, on a busy machine
PAUSE_S = 10.0
FRESH_S = 0.2
MAX_FRESH = 1_000  # answers

# What the answer depends on: organisations, client prefix.
_Key = tuple[tuple[str, ...], str | None]


@dataclass(slots=True)
class _Question:
    """A question under way. `until` is when nobody waits any more (monotonic seconds)."""

    facts: "Facts"
    key: _Key
    until: float
    answer: "Past | None" = None
    done: threading.Event = field(default_factory=threading.Event)


class _Fresh(NamedTuple):
    """An answer: when it was read (monotonic seconds), and for a hit at which time (Unix
    seconds).
    """

    read: float
    at: float
    answer: "Past"


class History:
    """One for a process. Thread-safe; it can be made before a fork, but asked only after it."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._questions: SimpleQueue[_Question] = SimpleQueue()
        self._lock = threading.Lock()
        self._asker: threading.Thread | None = None
        self._loaded = threading.Event()
        self._pause_until = 0.0
        self._open: dict[_Key, _Question] = {}  # asked and not answered
        self._fresh: dict[_Key, _Fresh] = {}

    def past(self, facts: "Facts") -> "Past | None":
        """`listings.gather` for a trap hit; None where the store did not answer in time. Never
        raises.
        """
        if time.monotonic() < self._pause_until:
            return None
        key = _key(facts)
        if (known := self._known(key, facts.at)) is not None:
            return known
        with self._lock:
            if self._asker is None:
                self._asker = threading.Thread(target=self._serve, name="history", daemon=True)
                self._asker.start()
        self._loaded.wait(LOAD_S)
        asked_at = time.monotonic()
        with self._lock:
            # Looked up once more: its reading may have ended since, and this would be a second one.
            if (known := self._known(key, facts.at)) is not None:
                return known
            question = self._open.get(key)
            if question is None:
                question = self._open[key] = _Question(facts, key, asked_at + WAIT_S)
                self._questions.put(question)
        if not question.done.wait(WAIT_S):
            self._pause()
        return question.answer

    def _known(self, key: _Key, at: float) -> "Past | None":
        """An answer that is not older than FRESH_S, for a hit at about the same time."""
        known = self._fresh.get(key)
        if known is None or time.monotonic() - known.read >= FRESH_S:
            return None
        return known.answer if abs(at - known.at) < FRESH_S else None

    def _pause(self) -> None:
        self._pause_until = time.monotonic() + PAUSE_S

    def _serve(self) -> None:
        engine: Engine | None = None
        _load()
        self._loaded.set()
        while True:
            question = self._questions.get()
            now = time.monotonic()
            try:
                if self._pause_until <= now < question.until:  # somebody still waits
                    engine = engine or _reader(self._settings)
                    question.answer = self._read(engine, question)
            except Exception:  # whatever it is, the next message must not wait for it again
                self._pause()
            finally:
                with self._lock:
                    del self._open[question.key]
                    if question.answer is not None:
                        if len(self._fresh) >= MAX_FRESH:
                            self._fresh.clear()
                        self._fresh[question.key] = _Fresh(now, question.facts.at, question.answer)
                question.done.set()

    def _read(self, engine: "Engine", question: _Question) -> "Past":
        from gatepost_policy.listings import gather

        with engine.connect() as connection:
            return gather(connection, question.facts, self._settings)


def _key(facts: "Facts") -> _Key:
    return tuple(map(organisation, facts.aligned_domains())), facts.client.prefix


def _load() -> None:
    """What `_reader` and `_read` import: it takes longer than a read."""
    import sqlalchemy  # noqa: F401

    import gatepost_policy.listings
    import gatepost_policy.store  # noqa: F401


def _reader(settings: "Settings") -> "Engine":
    """An engine that only reads and gives up soon. Raises OSError where there is no store yet."""
    from sqlalchemy import URL, create_engine, event, make_url

    from gatepost_policy import config
    from gatepost_policy.store import file_identity
    from gatepost_policy.store.connect import server_arguments

    path = config.database_path(settings)
    if path is None:
        url = config.store_url(settings)
        named = make_url(url).query.get("options", "")
        options = f"{named} -c statement_timeout={READ_TIMEOUT_MS}".strip()
        return create_engine(
            url,
            pool_size=1,
            max_overflow=0,
            connect_args={**server_arguments(url), "options": options},
        )
    if not path.exists():
        raise OSError("no store yet")
    engine = create_engine(
        URL.create("sqlite", database=str(path)),  # a % in the path stays one
        pool_size=1,
        connect_args={"timeout": READ_TIMEOUT_MS / 1000, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def set_up(dbapi: Any, record: object) -> None:
        dbapi.execute("PRAGMA query_only=ON")

    file_identity.watch(engine)
    return engine
