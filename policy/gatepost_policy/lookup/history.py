"""What is known of those who may be to blame: one bounded read of the store, on our own thread.

Why a thread: libmilter calls back on threads whose Python state belongs to a session and is freed
with it, perhaps while another thread still remembers it. What asks for "the state of this thread"
(PyGILState_Ensure) crashes there; sqlite3 does, when a connection is closed on which SQLAlchemy has
made a function. Workers died of it (SIGSEGV) when trap hits overlapped. A thread that Python has
started has a state for as long as it lives.

Rule: never raises, never creates or upgrades a store, and answers within WAIT_S, with None where
the store could not say; after that nobody asks it for PAUSE_S.
"""

import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from gatepost_policy.config.settings import Settings
    from gatepost_policy.mail.facts import Facts
    from gatepost_policy.rules import Past

READ_TIMEOUT_MS = 250
WAIT_S = 2.5  # a server may need a moment for the connection itself
PAUSE_S = 10.0


@dataclass(slots=True)
class _Question:
    """`until` is on the monotonic clock."""

    facts: "Facts"
    until: float
    answer: "Past | None" = None
    done: threading.Event = field(default_factory=threading.Event)


class History:
    """One process's way to ask. Thread-safe; make it before or after a fork, ask only after."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._questions: SimpleQueue[_Question] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pause_until = 0.0

    def past(self, facts: "Facts") -> "Past | None":
        """`listings.gather` for a trap hit; None where the store could not say in time."""
        now = time.monotonic()
        if now < self._pause_until:
            return None
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="history", daemon=True)
                self._thread.start()
        question = _Question(facts, now + WAIT_S)
        self._questions.put(question)
        if not question.done.wait(WAIT_S):
            self._pause()
        return question.answer

    def _pause(self) -> None:
        self._pause_until = time.monotonic() + PAUSE_S

    def _serve(self) -> None:
        engine: Engine | None = None
        while True:
            question = self._questions.get()
            try:
                now = time.monotonic()
                if self._pause_until <= now < question.until:  # somebody still waits
                    engine = engine or _reader(self._settings)
                    question.answer = self._read(engine, question)
            except Exception:  # whatever it is, mail must not wait for it a second time
                self._pause()
            finally:
                question.done.set()

    def _read(self, engine: "Engine", question: _Question) -> "Past":
        from gatepost_policy.listings import gather

        with engine.connect() as connection:
            return gather(connection, question.facts, self._settings)


def _reader(settings: "Settings") -> "Engine":
    """An engine that only reads and gives up soon. Raises OSError where there is no store yet."""
    from sqlalchemy import create_engine, event

    from gatepost_policy import config
    from gatepost_policy.store import file_identity

    path = config.database_path(settings)
    if path is None:
        return create_engine(
            config.store_url(settings),
            pool_size=1,
            max_overflow=0,
            connect_args={
                "connect_timeout": 2,
                "options": f"-c statement_timeout={READ_TIMEOUT_MS}",
                "application_name": "gatepost",
            },
        )
    if not path.exists():
        raise OSError("no store yet")
    engine = create_engine(
        f"sqlite:///{path}",
        pool_size=1,
        connect_args={"timeout": READ_TIMEOUT_MS / 1000, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def set_up(dbapi: Any, record: object) -> None:
        dbapi.execute("PRAGMA query_only=ON")

    file_identity.watch(engine)
    return engine
