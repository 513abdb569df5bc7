"""`milterctl watch`: nothing lost and nothing doubled, whatever happens to the log or to us.

$GATEPOST_WATCH_LINES (1500) lines and $GATEPOST_WATCH_KILLS (3) kills; by hand with 100000 and 20.
"""

import gzip
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Engine

import sums
from fix_store import count, message, signature
from gatepost_policy import recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.mail.facts import Source
from watcher import PATIENCE_S, Watcher, append, found, postfix, stamp

pytestmark = pytest.mark.slow

LINES = int(os.environ.get("GATEPOST_WATCH_LINES", "1500"))
KILLS = int(os.environ.get("GATEPOST_WATCH_KILLS", "3"))


def refused_user(number: int, at: float) -> list[str]:
    """A user whose recipient is refused. The last line ends the session, and shows the login."""
    lines = [line.replace("192.0.2.", "198.51.100.") for line in postfix(number * 5 + 4, at)]
    peer = lines[0].partition(" from ")[2].partition(":")[0]
    end = f"disconnect from {peer} ehlo=1 auth=1 mail=1 rcpt=0/1 commands=3/4"
    return [*lines, f"{lines[0].partition(']: ')[0]}]: {end}"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    directory = tmp_path / "log"
    directory.mkdir()
    return directory / "mail.log"


def tick(log: Path) -> None:
    """Until the clock of the files has moved on: nobody rotates twice within milliseconds."""
    probe = log.with_name("probe")
    probe.touch()
    begun = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == begun:
        probe.touch()


def rename(log: Path, generation: int) -> None:
    tick(log)
    log.rename(log.with_name(f"{log.name}.{generation}"))
    log.touch()


def copytruncate(log: Path, generation: int) -> None:
    tick(log)
    shutil.copy(log, log.with_name(f"{log.name}.{generation}"))
    os.truncate(log, 0)


def packed(log: Path, generation: int) -> None:
    """Renamed, and the one before packed: `delaycompress`."""
    before = log.with_name(f"{log.name}.{generation - 1}")
    if before.exists():
        status = before.stat()
        target = before.with_name(f"{before.name}.gz")
        target.write_bytes(gzip.compress(before.read_bytes()))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        before.unlink()
    rename(log, generation)


def wanted(numbers: range) -> tuple[Counter[str], int]:
    """The senders of what is from outside, and how many are ours."""
    outside = [n for n in numbers if n % 5 != 3]
    return Counter(f"s{n}@s.example" for n in outside), len(numbers) - len(outside)


@pytest.mark.timeout(0)
def test_nothing_lost_nothing_doubled_over_kills_and_rotations(
    any_settings: Settings, any_engine: Engine, tmp_path: Path, log: Path
) -> None:
    chance = random.Random(7)
    log.touch()
    watcher = Watcher(any_settings, tmp_path, log)
    watcher.start()
    begun, kills, generation, written, number = time.time(), 0, 0, 0, 0
    append(log, refused_user(10**6, begun))
    users = 1
    open_sessions: list[str] = []
    every = LINES // (KILLS + 1)
    while written < LINES:
        lines: list[str] = []
        for _ in range(chance.randrange(1, 40)):
            lines += postfix(number, begun)
            if number % 5 == 4:  # the stranger's session, and a user's, end some time later
                start = lines[-1].partition(" NOQUEUE: ")[0]
                peer = f"unknown[192.0.2.{number % 200 + 1}]"
                end = f"disconnect from {peer} ehlo=1 mail=1 rcpt=0/1 commands=2/3"
                own = refused_user(10**6 + number, begun)
                open_sessions += [f"{start} {end}", own.pop()]
                lines += own
                users += 1
            while len(open_sessions) > chance.randrange(1, 50):
                lines.append(open_sessions.pop(0))
            number += 1
        # A line may be seen half written.
        cut = chance.randrange(1, len(lines[-1]))
        with log.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines[:-1]) + lines[-1][:cut])
            file.flush()
            file.write(lines[-1][cut:] + "\n")
        written += len(lines)
        if chance.random() < 0.03:
            generation += 1
            chance.choice([rename, copytruncate, packed])(log, generation)
        if kills < KILLS and written > every * (kills + 1):
            kills += 1
            watcher.kill()
            if chance.random() < 0.5:  # while nobody looks
                generation += 1
                chance.choice([rename, copytruncate, packed])(log, generation)
            watcher.start()
    append(log, open_sessions)
    want = wanted(range(number))
    want = want[0], want[1] + users
    deadline = time.monotonic() + PATIENCE_S
    while (got := found(any_engine)) != want and time.monotonic() < deadline:
        time.sleep(0.1)
    watcher.stop()
    got = found(any_engine)
    lost, doubled = want[0] - got[0], got[0] - want[0]
    print(f"{written} lines, {kills} kills, {generation} rotations:", end=" ")
    print(f"{len(lost)} lost, {len(doubled)} doubled; own {got[1]} of {want[1]}")
    assert (lost, doubled) == (Counter(), Counter())
    assert got[1] == want[1]
    assert kills == KILLS and generation > 0
    sums.check(any_engine)
    with store.reading(any_engine) as connection:
        states = connection.exec_driver_sql("SELECT state FROM watch_position").scalars().all()
        prefixes = connection.exec_driver_sql("SELECT prefix FROM message").scalars().all()
    assert "198.51.100." not in "".join(states) + "".join(map(str, prefixes))


def test_a_hit_that_is_fresh_lists_its_client_and_an_old_one_nobody(
    settings: Settings, engine: Engine, tmp_path: Path, log: Path
) -> None:
    with store.writing(engine) as connection:
        traps.add(connection, "x@h.example", at=0)
    now = time.time()
    append(log, postfix(4, now - 7200) + postfix(9, now))
    append(log, [line.replace("192.0.2.10", "192.0.2.77") for line in postfix(9, now)])
    watcher = Watcher(settings, tmp_path, log)
    watcher.once()
    with store.reading(engine) as connection:
        listed = connection.exec_driver_sql("SELECT value FROM listing ORDER BY 1").scalars().all()
    assert listed == ["192.0.2.10/32", "192.0.2.77/32"]
    assert count(engine, "recipient", "trap") == 3


def test_what_a_door_has_seen_stays_one_message_and_one_hit(
    any_settings: Settings, any_engine: Engine, tmp_path: Path, log: Path
) -> None:
    """The milter's row and the log's, the policy service's and the log's: in both orders."""
    with store.writing(any_engine) as connection:
        traps.add(connection, "x@h.example", at=0)
    now = time.time()
    lines = postfix(0, now) + postfix(1, now) + postfix(4, now) + postfix(9, now)
    names = [line.split(": ")[1] for line in lines if "client=" in line]
    at_doors = [
        message(
            n, at=now + 1, client=f"192.0.2.{number + 1}", sender=f"s{number}@s.example",
            to=("user@home.example",), source=Source.MILTER,
        )
        | {"queue_id": name}
        for n, (number, name) in enumerate(zip((0, 1), names, strict=True))
    ] + [
        message(
            n, at=now, kind="rcpt", client=f"192.0.2.{n + 1}", port=2525, sender=f"s{n}@s.example",
            to=(), traps=("x@h.example",), source=Source.POLICY, author=None,
            action=Action.REJECT, reason=Reason.TRAP,
        )
        for n in (4, 9)
    ]  # fmt: skip
    before, after = at_doors[::2], at_doors[1::2]
    recorder.record_batch(any_engine, before, any_settings, now)
    append(log, lines)
    Watcher(any_settings, tmp_path, log).once()
    recorder.record_batch(any_engine, after, any_settings, now)
    with store.reading(any_engine) as connection:
        rows = connection.exec_driver_sql(
            "SELECT sender, source FROM message ORDER BY sender"
        ).tuples().all()  # fmt: skip
        listed = connection.exec_driver_sql("SELECT value, hits FROM listing ORDER BY 1").all()
    assert [tuple(row) for row in rows] == [
        ("s0@s.example", "milter"),
        ("s1@s.example", "milter"),
        ("s4@s.example", "policy"),
        ("s9@s.example", "policy"),
    ]
    assert [(row.value, row.hits) for row in listed] == [("192.0.2.10/32", 1), ("192.0.2.5/32", 1)]
    sums.check(any_engine)


@pytest.mark.parametrize("followed", ["before", "after", "never"])
def test_what_a_milter_behind_us_refused_is_no_good_mail(
    followed: str, any_settings: Settings, any_engine: Engine, tmp_path: Path, log: Path
) -> None:
    """The log tells, whichever is ingested first; the counter-proof is the store without it. What a
    mailbox server refused once it was queued is no better."""
    with store.writing(any_engine) as connection:
        traps.add(connection, "x@h.example", at=0)
    now = time.time()
    taken, lines = [], []
    for n in range(12):
        at = now - 86_400 * (n % 3 + 1)
        name = f"{n + 10:04d}AB"
        client = "c.example[192.0.2.9]"
        how = ("5.7.1 Spam", "4.7.1 Try again later")[n % 2]
        lines += [
            f"{stamp(at)} mx postfix/smtpd[1]: {name}: client={client}",
            *(
                (f"{stamp(at)} mx postfix/qmgr[3]: {name}: from=<s{n}@s{n}.example>, size=9,"
                 " nrcpt=1 (queue active)",
                 f"{stamp(at)} mx postfix/lmtp[4]: {name}: to=<user@home.example>, relay=mx,"
                 " delay=1, delays=1/0/0/0, dsn=5.7.1, status=bounced (host said: 550 Spam)",
                 f"{stamp(at)} mx postfix/qmgr[3]: {name}: removed")
                if n < 4 else
                (f"{stamp(at)} mx postfix/cleanup[2]: {name}: milter-reject: END-OF-MESSAGE from"
                 f" {client}: {how}; from=<s{n}@s{n}.example> to=<user@home.example> proto=ESMTP"
                 " helo=<c.example>",)
            ),
        ]  # fmt: skip
        taken.append(
            message(
                n, at=at, client="192.0.2.9", sender=f"s{n}@s{n}.example",
                signatures=(signature(f"s{n}.example"),), author=f"s{n}@s{n}.example",
                to=("user@home.example",), source=Source.MILTER,
            )
            | {"queue_id": name}
        )  # fmt: skip
    append(log, lines)
    watcher = Watcher(any_settings, tmp_path, log)
    if followed == "after":
        watcher.once()
    recorder.record_batch(any_engine, taken, any_settings, now)
    if followed == "before":
        watcher.once()
    assert count(any_engine, "message", "source = 'milter'") == count(any_engine, "message") == 12
    undelivered = 0 if followed == "never" else 12
    assert count(any_engine, "message", "NOT delivered") == undelivered
    hit = message(90, at=now, client="192.0.2.9", to=(), traps=("x@h.example",), author=None)
    recorder.record_batch(any_engine, [hit], any_settings, now)
    with store.reading(any_engine) as connection:
        listed = connection.exec_driver_sql("SELECT value FROM listing").scalars().all()
    assert listed == ([] if followed == "never" else ["192.0.2.9/32"])
    sums.check(any_engine)


def test_no_submission_leaves_a_trace_in_what_is_remembered(
    settings: Settings, engine: Engine, tmp_path: Path, log: Path
) -> None:
    lines = postfix(3, time.time())[:-1] + postfix(0, time.time())[:-1]  # both under way
    lines = [line.replace("c3.example", "canary.example") for line in lines]
    append(log, lines)
    watcher = Watcher(settings, tmp_path, log)
    watcher.once()
    with store.reading(engine) as connection:
        state = connection.exec_driver_sql("SELECT state FROM watch_position").scalar_one()
    assert "c0.example" in state, "the counter-proof: one from outside is remembered"
    for word in ("canary", "192.0.2.4", "alice", "s3@", '"user@home.example": true}], "arrived"'):
        assert word not in state, word
    append(log, [f"{postfix(n, time.time())[-1]}" for n in (3, 0)])
    watcher.once()
    assert found(engine) == wanted(range(3, 4)) or found(engine)[1] == 1
    everything = b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != log
    )
    assert b"canary" not in everything and b"alice" not in everything
