"""What every process knows by heart: matching, look-ups, and how a change arrives."""

import json
import os
import threading
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, insert

from fix_store import AT, message, signature
from gatepost_policy import config, ingest, listings, lookup, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.lookup import KnownState, history, publisher, snapshot
from gatepost_policy.lookup.numbers import contains
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import Client, Facts, Family, Recipient, Signature
from gatepost_policy.rules import Known
from gatepost_policy.store.tables import TrapRow


@pytest.fixture
def settings(any_settings: Settings) -> Settings:
    """On SQLite, and on PostgreSQL where that ring runs."""
    return any_settings


@pytest.fixture
def engine(any_engine: Engine) -> Engine:
    """The store of `settings`."""
    return any_engine


def facts(*to: str, client: str = "192.0.2.7", signatures: tuple[Signature, ...] = ()) -> Facts:
    ip = ip_address(client)
    return Facts(
        at=time.time(),
        client=Client(Family.IPV6 if ip.version == 6 else Family.IPV4, ip, 4000),
        sender=address.parse("news@sender.example"),
        recipients=tuple(Recipient(address.parse(a)) for a in to),
        signatures=signatures,
    )


@pytest.fixture
def state(settings: Settings, engine: Engine) -> KnownState:
    return KnownState(settings)


def large_file(settings: Settings, kind: str = snapshot.TRAPS_FILE) -> Path:
    """The large file of traps, or of listings."""
    (path,) = config.state_dir(settings).glob(f"{kind}.*")
    return path


def publish(engine: Engine, settings: Settings) -> None:
    with store.reading(engine) as connection:
        lookup.publish(connection, config.state_dir(settings), settings)


MATCHES = [
    ("trap@example.org", True), ("Trap+x@EXAMPLE.ORG.", True),
    ("<@r.example:trap@example.org>", True),
    ("trap@sub.example.org", False), ("rap@example.org", False), ("anyone@old.example", True),
    ("x@sub.old.example", False), ("info-7@example.org", True), ("info7@example.org", False),
    ("a@b.gone.example", True), ("a@gone.example", False), ("postmaster@old.example", False),
    ("ABUSE@old.example", False), ("x[1]@glob.example", True), ("x1@glob.example", False),
]  # fmt: skip


def test_two_first_messages_at_once(
    state: KnownState, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is judged as if nothing were known while the other one reads the files."""
    publish(engine, settings)
    others: list[threading.Thread] = []
    seen: list[bool] = []
    really = state._open_tick

    def slowly() -> object:
        if not others:
            one = threading.Thread(target=lambda: seen.append(state.current().hashed is not None))
            others.append(one)
            one.start()
            one.join(0.2)
        return really()

    monkeypatch.setattr(state, "_open_tick", slowly)
    assert state.current().hashed is not None
    others[0].join(10)
    assert seen == [True]


def test_matching(state: KnownState, engine: Engine, settings: Settings) -> None:
    assert not state.is_trap(address.parse("trap@example.org"))
    assert state.lookup(facts("trap@example.org")).traps == frozenset()
    with store.writing(engine) as connection:
        for name in ("trap@example.org", "@old.example", "info-*@example.org", "*@*.gone.example",
                     "*[1]@glob.example"):  # fmt: skip
            traps.add(connection, name, at=AT)
    publish(engine, settings)
    time.sleep(0.11)  # nothing was there: it looks again after a tenth of a second
    for name, want in MATCHES:
        assert state.is_trap(address.parse(name)) is want, name


def test_changes_arrive(state: KnownState, engine: Engine, settings: Settings) -> None:
    """Added, removed and imported traps, through the small file and the large one."""
    publish(engine, settings)
    state.current()
    large = large_file(settings)

    def look(*names: str) -> list[bool]:
        publish(engine, settings)
        return [state.is_trap(address.parse(name)) for name in names]

    with store.writing(engine) as connection:
        traps.add(connection, "one@example.org", at=time.time())
    assert look("one@example.org", "two@example.org") == [True, False]
    with store.writing(engine) as connection:
        traps.remove(connection, "one@example.org", at=time.time())
    assert look("one@example.org") == [False]
    with store.writing(engine) as connection:
        traps.add(connection, "one@example.org", at=time.time())
    assert look("one@example.org") == [True]
    assert large_file(settings) == large
    with engine.connect() as bare:
        connection = bare.execution_options(gatepost_writing=True)
        traps.import_lines(connection, [b"two@example.org"], at=time.time())
    assert look("one@example.org", "two@example.org") == [True, True]
    assert large_file(settings) != large


def test_listings_are_looked_up(state: KnownState, engine: Engine, settings: Settings) -> None:
    now = time.time()
    with store.writing(engine) as connection:
        for name in ("192.0.2.7", "198.51.100.0/24", "2001:db8:1::/48", "sender.example"):
            listings.punish(connection, listings.identify(name), seconds=60, at=now)
        listings.punish(connection, listings.identify("192.0.2.9"), seconds=60, at=now - 61)
    publish(engine, settings)
    time.sleep(0.11)
    signed = (signature(),)
    cases: list[tuple[Facts, list[str]]] = [
        (facts("u@x.example"), ["192.0.2.7/32"]),
        (facts("u@x.example", client="192.0.2.8"), []),
        (facts("u@x.example", client="192.0.2.9"), []),
        (facts("u@x.example", client="198.51.100.200"), ["198.51.100.0/24"]),
        (facts("u@x.example", client="2001:db8:1:ff::1"), ["2001:db8:1::/48"]),
        (facts("u@x.example", client="2001:db8:2::1"), []),
        (facts("u@x.example", client="192.0.2.8", signatures=signed), ["sender.example"]),
        (facts("u@x.example", client="192.0.2.8", signatures=(signature("a.example"),)), []),
    ]
    for given, want in cases:
        got = [x.identity.value for x in state.lookup(given).listed]
        assert got == want, given.client


def test_a_listing_ends_by_itself(state: KnownState, engine: Engine, settings: Settings) -> None:
    now = time.time()
    with store.writing(engine) as connection:
        listings.punish(connection, listings.identify("192.0.2.7"), seconds=60, at=now)
    publish(engine, settings)
    time.sleep(0.11)
    from dataclasses import replace

    mine = facts("u@x.example")
    assert state.lookup(mine).listed
    assert not state.lookup(replace(mine, at=now + 61)).listed


def test_good_messages_and_repeat(
    state: KnownState, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine's server may take longer than mail waits for it.
    monkeypatch.setattr(history, "WAIT_S", 30.0)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@home.example", at=AT)
        at = time.time() - 100
        batch = [message(n, at=at + n) for n in range(6)]
        hits = [
            message(n, at=at - 86_400 * 20 * n, client="192.0.2.9", sender="r@slow.example",
                    author=None, traps=("trap@home.example",), to=())
            for n in range(3, 0, -1)
        ]  # fmt: skip
        ingest.ingest(connection, [*hits, *batch], settings, AT)
    publish(engine, settings)
    time.sleep(0.11)
    got = state.lookup(facts("trap@home.example"))
    assert got.past is not None and got.repeat == ()
    assert got.past.client.messages == 6
    assert state.lookup(facts("trap@home.example"), ask_store=False).past is None
    assert state.lookup(facts("u@home.example")).past is None
    slow = state.lookup(facts("u@home.example", client="192.0.2.9")).repeat
    assert [i.value for i in slow] == ["192.0.2.9/32"]


def test_without_a_store_nothing_is_known(tmp_path: Path) -> None:
    from fix_store import settings_in

    state = KnownState(settings_in(tmp_path / "nowhere"))
    assert state.lookup(facts("trap@home.example")) == Known()


@pytest.mark.parametrize("name", [snapshot.NOW_FILE, snapshot.TRAPS_FILE])
def test_damage_keeps_what_was_known(
    name: str, state: KnownState, engine: Engine, settings: Settings
) -> None:
    directory = config.state_dir(settings)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@example.org", at=AT)
    publish(engine, settings)
    time.sleep(0.11)
    trap = address.parse("trap@example.org")
    assert state.is_trap(trap)
    aside = directory / "aside"
    aside.write_bytes(os.urandom(100))
    aside.rename(directory / name if name == snapshot.NOW_FILE else large_file(settings))
    publisher.bump(directory / snapshot.TICK_FILE)
    assert state.is_trap(trap)
    # The next publisher does not build on the damage.
    publish(engine, settings)
    assert state.is_trap(trap)
    assert KnownState(settings).is_trap(trap)


def test_a_state_directory_made_anew_is_noticed(
    state: KnownState, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepost_policy.lookup.state.LOOK_AGAIN_S", 0.0)
    publish(engine, settings)
    assert not state.is_trap(address.parse("new@example.org"))
    directory = config.state_dir(settings)
    for path in directory.glob("known.*"):
        path.unlink()
    with store.writing(engine) as connection:
        traps.add(connection, "new@example.org", at=AT)
    publish(engine, settings)
    assert state.is_trap(address.parse("new@example.org"))


def test_a_restored_store_is_noticed(engine: Engine, settings: Settings) -> None:
    """The same revision, other traps: what was published is not built upon."""
    directory = config.state_dir(settings)
    with store.writing(engine) as connection:
        traps.add(connection, "new@example.org", at=time.time())
    publish(engine, settings)
    with store.writing(engine) as connection:
        connection.execute(delete(TrapRow))
        connection.execute(
            insert(TrapRow),
            [
                {"kind": "exact", "key": f"{name}@example.org", "raw": "", "added": AT,
                 "generation": 0, "live_as": ""}
                for name in ("old", "older")
            ],
        )  # fmt: skip
    publisher._checked.discard(directory)  # as a process that has just started
    publish(engine, settings)
    state = KnownState(settings)
    got = [state.is_trap(address.parse(f"{n}@example.org")) for n in ("new", "old", "older")]
    assert got == [False, True, True]


def test_look_up_does_not_grow() -> None:
    """Binary search: what is read of the large file for one look-up is some twenty numbers."""

    class Counting:
        def __init__(self, numbers: object) -> None:
            self.numbers, self.reads = numbers, 0

        def __len__(self) -> int:
            return len(self.numbers)  # type: ignore[arg-type]

        def __getitem__(self, index: int) -> int:
            self.reads += 1
            return int(self.numbers[index])  # type: ignore[index]

    reads = {}
    for size in (1_000, 100_000):
        hashed = snapshot.hasher(b"k" * 16)
        keys = (f"t{n}@x.example" for n in range(size))
        numbers = Counting(publisher.sorted_hashes(b"k" * 16, keys))
        assert contains(numbers, hashed("t7@x.example"))
        assert not contains(numbers, hashed("u7@x.example"))
        reads[size] = numbers.reads
    assert reads[100_000] <= reads[1_000] + 2 * 8


def test_snapshot_is_plain_data(engine: Engine, settings: Settings) -> None:
    """No address of a listed sender stands in the files, only hashes."""
    with store.writing(engine) as connection:
        listings.punish(connection, listings.identify("192.0.2.7"), seconds=60, at=time.time())
        traps.add(connection, "secret-trap@example.org", at=AT)
    publish(engine, settings)
    directory = config.state_dir(settings)
    for path in (directory / snapshot.NOW_FILE, large_file(settings)):
        data = path.read_bytes()
        assert b"192.0.2.7" not in data and b"secret-trap" not in data
    data = (directory / snapshot.NOW_FILE).read_bytes()
    octets = snapshot.NOW_HEAD.unpack_from(data)[1]
    assert json.loads(data[snapshot.NOW_HEAD.size :][:octets])["v4_bits"] == [32]


def test_a_publisher_that_fails_leaves_files_that_belong_together(
    state: KnownState, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The large file of listings is not put in place before the small one that names it is written.

    A process that starts then has to know what was known.
    """
    with store.writing(engine) as connection:
        traps.add(connection, "trap@example.org", at=AT)
    publish(engine, settings)
    before = large_file(settings, snapshot.LISTED_FILE).read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gatepost_policy.lookup.listed.REBUILD_S", -1.0)  # a large file each time
        patch.setattr(json, "dumps", full)
        with pytest.raises(OSError, match="No space"):
            publish(engine, settings)
    assert large_file(settings, snapshot.LISTED_FILE).read_bytes() == before
    assert KnownState(settings).is_trap(address.parse("trap@example.org"))


def test_listings_and_repeat_senders_together(
    state: KnownState, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new large file, while the repeat senders stay as published: nothing is read back."""
    publish(engine, settings)
    monkeypatch.setattr("gatepost_policy.lookup.listed.REBUILD_S", -1.0)
    publish(engine, settings)
    publish(engine, settings)
    assert KnownState(settings).current().hashed is not None
