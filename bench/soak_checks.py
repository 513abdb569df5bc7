"""What a soak is judged by: the store against what was answered, the files against canaries.

`Books` is kept by the clients; `judge` reads the store and the files of the run when all is over
and returns one line for each promise that was not kept.
"""

import statistics
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

GROWTH_MAX = 0.10
CHUNK = 1 << 20
OURS = "50AC"  # begins the queue ids that nobody else makes
# Of a submission nothing of this may be written anywhere; of a stranger everything is.
SECRET_HELO, SECRET_NAME, SECRET_LOGIN = "canary-helo", "canary-host.example", "canary-login"
SECRET_SENDER = "canary-sender@example.net"
SECRET_CLIENTS = ("203.0.113.77", "2001:db8:77:77::77")
SECRETS = (SECRET_HELO, SECRET_NAME, SECRET_LOGIN, SECRET_SENDER, SECRET_CLIENTS[0],
           "2001:db8:77:77:")  # fmt: skip
STRANGER, STRANGER_HELO = "stranger@example.com", "stranger-helo.example"


@dataclass
class Books:
    """What the clients know."""

    sums: Counter[str] = field(default_factory=Counter)
    letters: set[str] = field(default_factory=set)  # queue ids of inbound mail that was answered
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, number: int = 1) -> None:
        """Count."""
        with self.lock:
            self.sums[what] += number


def grown(taken: Sequence[tuple[int, int]]) -> list[str]:
    """What grew, of samples of (memory in KB, descriptors): last third against the middle one."""
    third = len(taken) // 3
    wrong: list[str] = []
    if not third:
        print("too short a run to say what grows")
        return []
    for name, place in (("memory, KB", 0), ("descriptors", 1)):
        middle = statistics.median(t[place] for t in taken[third : 2 * third])
        last = statistics.median(t[place] for t in taken[2 * third :])
        print(
            f"{name}: middle third {middle:.0f}, last third {last:.0f} ({last / middle - 1:+.1%})"
        )
        if last > middle * (1 + GROWTH_MAX):
            wrong.append(f"{name}: grew by {last / middle - 1:.1%}")
    return wrong


def judge(run: Path, books: Books) -> list[str]:
    """Store and files against the books, once every process has ended."""
    return stored(run, books) + traces(run) + blind(run)


def stored(run: Path, books: Books) -> list[str]:
    """Answered messages are there, once; submissions are a number."""
    from sqlalchemy import text

    from gatepost_policy.store import open_url

    with open_url(f"sqlite:///{run}/gatepost.sqlite").connect() as store:
        rows = store.execute(
            text("SELECT direction, queue_id FROM message WHERE source = 'milter'")
        ).all()
        counted = store.execute(text("SELECT sum(messages) FROM submission_count")).scalar() or 0
    sums, wrong = books.sums, []
    ids = Counter(row.queue_id for row in rows)
    lost = books.letters - set(ids)
    twice = [i for i, number in ids.items() if number > 1 and i.startswith(OURS)]
    if lost:
        wrong.append(f"{len(lost)} answered messages are not stored: {sorted(lost)[:3]}")
    if twice:
        wrong.append(f"{len(twice)} messages are stored twice: {sorted(twice)[:3]}")
    # Whoever was cut off may have been written down without having been answered.
    for what, number, answered, broken in (
        ("messages", len(rows), sums["messages"] + len(books.letters), sums["broken"]),
        ("submissions", counted, sums["submissions"], sums["submissions broken"]),
    ):
        print(f"{what}: answered {answered}, stored {number}, broken {broken}")
        if not answered <= number <= answered + broken:
            wrong.append(f"{answered} {what} answered, {broken} broken, {number} stored")
        if not answered:
            wrong.append(f"no {what} were answered")
    own = sum(row.direction != "inbound" for row in rows)
    if own:
        wrong.append(f"{own} submissions have rows of their own")
    return wrong


def traces(directory: Path) -> list[str]:
    """Canaries of submissions in any file but the configuration; tracebacks."""
    wrong = []
    for path in directory.rglob("*"):
        if path.is_file() and path.name != "gatepost.toml":
            found = search(path, (*SECRETS, "Traceback"))
            if found:
                wrong.append(f"{path.name} holds {', '.join(sorted(found))}")
    return wrong


def blind(run: Path) -> list[str]:
    """A search that finds nothing has to find what is there."""
    return [
        f"{name} does not hold {word}: the search finds nothing"
        for name, word in (("log", STRANGER), ("gatepost.sqlite", STRANGER_HELO))
        if not search(run / name, (word,))
    ]


def search(path: Path, words: Sequence[str]) -> set[str]:
    """Which of `words` stand in the file."""
    found: set[str] = set()
    wanted = {word: word.encode() for word in words}
    keep = max(map(len, wanted.values())) - 1
    tail = b""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                window = tail + chunk
                found |= {word for word, octets in wanted.items() if octets in window}
                tail = window[-keep:]
    except FileNotFoundError:
        pass  # the recorder has read this part of the journal
    return found
