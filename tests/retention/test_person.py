"""`data export` and `data erase`: one person's data, all of it, and the counts stay right."""

import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, Float, select

import sums
from fix_store import AT, count, journal_of, message, signature
from gatepost_policy import config, journal, listings, lookup, recorder, retention, store, traps
from gatepost_policy.config.settings import Settings, Trap
from gatepost_policy.ingest import rows
from gatepost_policy.retention import erased_times, person_texts
from gatepost_policy.retention import person as personal
from gatepost_policy.store import revision, sqltext
from gatepost_policy.store.whole_schema import Base

ANNA = "anna@sender.example"


def told() -> list[dict[str, object]]:
    """Anna writes twice (once with another spelling), gets two, and others write too."""
    return [
        message(1, sender=ANNA, author=ANNA, signatures=(signature(),), key="log:1"),
        message(2, sender="Anna+list@sender.example", author="other@sender.example"),
        message(3, to=(ANNA, "bob@home.example"), traps=("trap@home.example",)),
        message(4, to=("ANNA+x@Sender.Example",)),
        message(5, sender="joanna@sender.example", author=None, to=("bob@home.example",)),
        message(6, sender="anna@other.example", author=None, traps=(ANNA,)),
    ]


@pytest.fixture
def person(any_settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a capture directory that holds a message of Anna's and one of Bob's."""
    directory = tmp_path / "captures"
    directory.mkdir()
    for name, text in (("a", "From: ANNA@sender.example\n\n"), ("b", "From: bob@x.example\n\n")):
        (directory / f"{name}.eml").write_text(text)
        (directory / f"{name}.json").write_text("{}")
    return replace(any_settings, trap=Trap(capture=str(directory)))


def test_export_has_what_there_is(person: Settings, any_engine: Engine) -> None:
    recorder.record_batch(any_engine, told(), person)
    got = personal.export(any_engine, person, "ANNA@sender.example")
    assert [m["queue_id"] for m in got["sent"]] == ["Q1", "Q2"]
    assert [m["queue_id"] for m in got["received"]] == ["Q3", "Q4", "Q6"]
    assert got["received"][0]["recipients"] == [ANNA], "other recipients are other people"
    assert "address" not in got["received"][0]
    assert sorted(i["value"] for i in got["identities"]) == ["Anna+list@sender.example", ANNA]
    assert [Path(p).name for p in got["captures"]] == ["a.eml", "a.json"]


def test_export_tells_times_as_everywhere(person: Settings, any_engine: Engine) -> None:
    """ISO 8601 in UTC, never Unix seconds; yes and no are no numbers."""
    recorder.record_batch(any_engine, told(), person, AT + 60)
    with store.writing(any_engine) as connection:
        traps.add(connection, ANNA, at=AT)
        listings.punish(connection, listings.identify(ANNA), seconds=60, at=AT)
    got = json.loads(json.dumps(personal.export(any_engine, person, ANNA)))
    first, last = "2026-09-21T14:13:21Z", "2026-09-21T14:14:20Z"
    assert (got["sent"][0]["at"], got["sent"][0]["learned"]) == (first, last)
    (identity,) = [i for i in got["identities"] if i["value"] == ANNA]
    assert [identity[name] for name in ("first_seen", "last_seen", "learned")] == [
        first, first, last
    ]  # fmt: skip
    (listing,) = got["listings"]
    assert (listing["since"], listing["until"]) == ("2026-09-21T14:13:20Z", last)
    assert (listing["seconds"], listing["forgiven"]) == (60, None)
    (trap,) = got["trap"]
    assert (trap["added"], trap["live_at"]) == ("2026-09-21T14:13:20Z", None)
    assert (str(listing["by_hand"]), str(identity["repeat"])) == ("True", "False"), "no numbers"


def test_erase_leaves_nothing_but_numbers(person: Settings, any_engine: Engine) -> None:
    recorder.record_batch(any_engine, told(), person)
    done = personal.erase(any_engine, person, ANNA, AT)
    assert (done.sent, done.received, done.identities, done.captures) == (2, 3, 2, 2)
    again = personal.export(any_engine, person, ANNA)
    assert not any(again[name] for name in ("sent", "received", "identities", "captures"))
    assert count(any_engine, "message") == 4
    assert count(any_engine, "message_count") == 1
    assert count(any_engine, "recipient") == 7, "a message has as many recipients as before"
    assert count(any_engine, "recipient", "trap") == 2
    assert count(any_engine, "evidence", "trap < 'b'") == 0
    sums.check(any_engine)
    # The same log once more does not bring it back.
    assert recorder.record_batch(any_engine, told()[:1], person) == 0
    assert (Path(person.trap.capture) / "b.eml").exists()


def times(engine: Engine) -> dict[float, set[str]]:
    """Every point in time that stands anywhere in the store, with where it does."""
    found: dict[float, set[str]] = {}
    with store.reading(engine) as connection:
        for table in Base.metadata.tables.values():
            for column in table.columns:
                if isinstance(column.type, Float):
                    for at in connection.scalars(select(column).where(column.is_not(None))):
                        found.setdefault(at, set()).add(f"{table.name}.{column.name}")
    return found


def test_erase_leaves_no_time_of_day(any_settings: Settings, any_engine: Engine) -> None:
    """Neither the first nor the newest of a day, nor one in between, nor when we learned of it."""
    erased = {AT + 1: AT + 2_000, AT + 50: AT + 2_001, AT + 90_000: AT + 90_100}
    for at, learned in erased.items():
        hers = message(1, at=at, sender=ANNA, author=ANNA, signatures=(signature(),))
        recorder.record_batch(any_engine, [hers], any_settings, learned)
    others = [message(9, at=AT + n, signatures=(signature(),)) for n in (10, 30, 50, 86_410)]
    recorder.record_batch(any_engine, others, any_settings, AT + 1_000)
    # The same day, from a client and with a domain of their own.
    other = message(5, at=AT + 20, client="2001:db8::1", sender="x@else.example", author=None)
    recorder.record_batch(any_engine, [other], any_settings, AT + 1_000)
    before = times(any_engine)
    assert {"domain_day.first_at", "identity.first_seen", "dkim_key.first_seen"} <= before[AT + 1]
    assert {"domain_day.last_at", "identity.last_seen"} <= before[AT + 90_000]
    assert personal.erase(any_engine, any_settings, ANNA, AT + 100_000).sent == 3
    after = times(any_engine)
    left = {at: after[at] for at in (*erased, *erased.values()) if at in after}
    # One of the others came in the same second.
    assert not set(left) - {AT + 50}
    assert not any("identity" in where or "dkim_key" in where for where in left[AT + 50])
    sums.check(any_engine, spans=True)
    with store.reading(any_engine) as connection:
        wrong = "SELECT count(*) FROM identity WHERE last_seen < first_seen"
        assert connection.exec_driver_sql(wrong).scalar_one() == 0


def test_erase_makes_others_forget(settings: Settings, engine: Engine) -> None:
    """A repeat sender is known by heart in every process: they are told."""
    recorder.record_batch(engine, told(), settings)
    with store.writing(engine) as connection:
        connection.exec_driver_sql("UPDATE identity SET repeat = true WHERE value = ?", (ANNA,))
    personal.erase(engine, settings, ANNA, AT)
    with store.reading(engine) as connection:
        assert revision.number(connection, "repeat") == 1


def test_erase_reaches_the_journal_and_the_file(settings: Settings, engine: Engine) -> None:
    writer = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
    for data in told():
        writer.write(data)
    assert recorder.wait_until_ingested(settings)
    quarantine = Path(settings.store.url).parent / "quarantine"
    quarantine.mkdir()
    (quarantine / "x.json").write_text('{"record": {"sender": "Anna+a@sender.example"}}')
    (quarantine / "y.json").write_text('{"record": {"sender": "joe@sender.example"}}')
    done = personal.erase(engine, settings, ANNA, AT)
    assert (done.journal, done.quarantine) == (5, 1)
    engine.dispose()
    left = b"".join(p.read_bytes() for p in Path(settings.store.url).parent.rglob("*")
                    if p.is_file())  # fmt: skip
    assert b"joanna@sender.example" in left, "or this test would find nothing at all"
    assert b"anna@sender.example" not in left.replace(b"joanna@sender.example", b"").lower()
    assert b"anna+" not in left.lower()
    # What the writer adds after it is still read, and the blanked records are passed over.
    writer.write(message(9))
    writer.close()
    (segment,) = journal.segments(journal_of(settings))
    kinds = [p.data["kind"] for p in journal.read(segment, 0) if p.data is not None]
    assert kinds == ["void"] * 4 + ["message", "void", "message"]
    assert recorder.wait_until_ingested(settings)


def test_erased_mail_is_not_counted_twice_by_retention(
    any_settings: Settings, any_engine: Engine
) -> None:
    recorder.record_batch(any_engine, told(), any_settings, AT)
    personal.erase(any_engine, any_settings, ANNA, AT)
    retention.purge(any_engine, any_settings, AT + 30 * 365 * 86_400)
    assert count(any_engine, "message") == 0
    with any_engine.connect() as connection:
        total = connection.exec_driver_sql("SELECT sum(messages) FROM message_count").scalar_one()
    assert total == 6


LIST = "news@list.example"
# Addresses that carry Anna's, as envelope senders and as recipients; and those that do not.
CARRIED = (
    "bounces+anna=sender.example@list.example",  # VERP: Mailman, sendgrid
    "list-return-77-Anna=Sender.Example@list.example",  # ezmlm
    "prvs=1234abcdef=anna@sender.example",  # BATV
    "btv1==0123abcdef==anna+x@sender.example",
    "SRS0=hash=AA=sender.example=anna@forward.example",
    "SRS1=hash=other.example==hash=AA=sender.example=anna@forward.example",
    "anna%sender.example@relay.example",
)
OTHERS = (
    "bounces+joanna=sender.example@list.example",
    "bounces+anna=sender.example.org@list.example",
    "prvs=1234abcdef=hanna@sender.example",
    "joe.anna@sender.example",
    "anna=other.example@list.example",
)


def every_text(engine: Engine) -> list[str]:
    """Every text of the store."""
    with store.reading(engine) as connection:
        return [
            f"{table.name}: {value}".lower()
            for table in Base.metadata.tables.values()
            for row in connection.execute(select(table))
            for value in row
            if isinstance(value, str)
        ]


def test_erase_finds_the_address_in_longer_texts(person: Settings, any_engine: Engine) -> None:
    """Bounce addresses, Message-IDs, notes, saved states of `watch`, changes of listings."""
    several = (*CARRIED, *OTHERS)
    mail = [
        message(n, sender=a, author=LIST, to=("b@home.example",)) for n, a in enumerate(several)
    ]
    mail += [message(50 + n, sender=LIST, author=LIST, to=(a,)) for n, a in enumerate(several)]
    mail += [message(90, message_id=f"<{ANNA}>"), message(91, message_id=f"<2026.{ANNA}>")]
    recorder.record_batch(any_engine, mail, person)
    with store.writing(any_engine) as connection:
        traps.add(connection, "old@home.example", at=AT, note=f"{ANNA} wrote")
        listings.punish(connection, listings.identify(ANNA), seconds=60, at=AT)
        state = json.dumps({"open": [["a", {"sender": "Anna@Sender.Example", "to": [ANNA]}]]})
        sql = "INSERT INTO watch_position (host, name, state, at) VALUES (?, ?, ?, ?)"
        sqltext.execute(connection, sql, ("mx", "/var/log/mail.log", state, AT))
    before = every_text(any_engine)
    assert sum("anna" in text for text in before) > 40
    would = personal.would_erase(any_engine, person, ANNA)
    done = personal.erase(any_engine, person, ANNA, AT)
    assert (done.sent, done.received) == (would.sent, would.received) == (7, 7)
    left = "\n".join(every_text(any_engine))
    for other in OTHERS:
        local = other.partition("@")[0]
        assert local in left
        left = left.replace(local, "")
    assert "anna" not in left
    assert count(any_engine, "message") == len(several) * 2 + 2 - 7
    assert count(any_engine, "message", "message_id IS NULL") == 2
    sums.check(any_engine)


@pytest.mark.parametrize(
    "text",
    [
        b"Subject: =?utf-8?q?for_anna=40sender=2Eexample?=\n\nx",
        b"Content-Transfer-Encoding: base64\n\n" + b64encode(b"Dear anna@sender.example,"),
        b"Content-Transfer-Encoding: quoted-printable\n\nanna=\n@sender.example",
        b"X: y\n\nhttps://list.example/leave?who=anna%40sender.example",
    ],
)
def test_erase_reads_what_is_encoded(person: Settings, any_engine: Engine, text: bytes) -> None:
    captured = Path(person.trap.capture) / "c.eml"
    captured.write_bytes(text)
    assert personal.erase(any_engine, person, "nina@sender.example", AT).captures == 0
    assert personal.erase(any_engine, person, ANNA, AT).captures == 3
    assert not captured.exists()


def test_an_erased_listing_ends_in_every_process(settings: Settings, engine: Engine) -> None:
    """No change names the person, so the listings are read whole."""
    with store.writing(engine) as connection:
        for name in (ANNA, "bob@other.example"):
            listings.punish(connection, listings.identify(name), seconds=60, at=AT)
    state = config.state_dir(settings)
    with store.reading(engine) as connection:
        lookup.publish(connection, state, settings, now=AT)
    known = lookup.KnownState(settings)
    assert known.current().until("sender", ANNA) == AT + 60
    assert personal.erase(engine, settings, ANNA, AT).listings == 1
    with store.reading(engine) as connection:
        lookup.publish(connection, state, settings, now=AT)
    assert lookup.KnownState(settings).current().until("sender", ANNA) is None
    # A number that was given again, to the next change, is not passed over.
    with store.writing(engine) as connection:
        listings.punish(connection, listings.identify("eve@x.example"), seconds=60, at=AT)
    with store.reading(engine) as connection:
        lookup.publish(connection, state, settings, now=AT)
    assert lookup.KnownState(settings).current().until("sender", "eve@x.example") == AT + 60


def test_older_copies_are_named(settings: Settings, engine: Engine) -> None:
    copy = Path(f"{settings.store.url}.before-20260101T000000")
    copy.write_bytes(b"")
    assert personal.erase(engine, settings, ANNA, AT).copies == [str(copy)]
    with store.writing(engine) as connection:
        traps.add(connection, ANNA, at=AT)
        traps.remove(connection, ANNA, at=AT)
    assert not personal.erase(engine, settings, ANNA, AT).is_trap


def test_what_is_no_address_is_refused(settings: Settings, engine: Engine) -> None:
    with pytest.raises(ValueError, match="want a mail address"):
        personal.erase(engine, settings, "example.org", AT)


def test_erase_is_done_in_steps(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write between two steps; each step says how far it is."""
    recorder.record_batch(any_engine, told(), any_settings)
    recorder.record_batch(
        any_engine,
        [message(n, sender=f"list+anna=sender.example@l{n}.example") for n in range(10, 17)],
        any_settings,
    )
    monkeypatch.setattr(person_texts, "STEP", 2)
    monkeypatch.setattr(person_texts, "TELL_S", 0.0)
    monkeypatch.setattr(personal, "STEP", 2)
    said: list[str] = []

    def write(text: str) -> None:
        said.append(text)
        with store.writing(any_engine) as connection:
            revision.bump(connection, "others")

    done = personal.erase(any_engine, any_settings, ANNA, AT, write)
    assert (done.sent, done.received) == (9, 3)
    assert "looked through 12 messages" in said
    assert said[-7:] == [
        "erased 2 of 9 sent messages", "erased 4 of 9 sent messages", "erased 6 of 9 sent messages",
        "erased 8 of 9 sent messages", "erased 9 of 9 sent messages",
        "erased 2 of 3 recipients", "erased 3 of 3 recipients",
    ]  # fmt: skip
    sums.check(any_engine, spans=True)
    again = personal.export(any_engine, any_settings, ANNA)
    assert not any(again[name] for name in ("sent", "received", "named", "identities"))


def test_erase_does_not_read_the_mail_of_all_others(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A domain that wrote little: its first and last mail of the day is found by its name."""
    monkeypatch.setattr(erased_times, "LOOK", 5)
    monkeypatch.setattr(erased_times, "LOOK_MAX", 10)
    day = AT // 86_400 * 86_400 + 86_400
    others = [
        message(n, at=day + n, client="2001:db8::1", author=None) for n in range(1_000, 1_200)
    ]
    hers = [
        message(n, at=day + at, sender=f"{who}@mail.rare.example", author=None,
                signatures=(signature("rare.example"),))
        for n, (at, who) in enumerate(
            ((10, "anna"), (1_050.5, "bob"), (1_100.5, "anna"), (1_150.5, "carl"), (5_000, "anna"))
        )
    ]  # fmt: skip
    recorder.record_batch(any_engine, [*others, *hers], any_settings)
    loaded: list[int] = []
    load = rows.load

    def counted(connection: Connection, ids: list[int]) -> dict[int, rows.Row]:
        loaded.extend(ids)
        return load(connection, ids)

    monkeypatch.setattr(rows, "load", counted)
    assert personal.erase(any_engine, any_settings, "anna@mail.rare.example", AT).sent == 3
    monkeypatch.setattr(rows, "load", load)
    sums.check(any_engine, spans=True)
    assert len(loaded) < 80, len(loaded)
