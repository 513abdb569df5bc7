"""Damage in a segment costs the damaged record and no other, and is said once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fix_store import count, journal_of, message
from gatepost_policy import config, journal
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal import segment as reading
from gatepost_policy.journal.segment import HEAD
from gatepost_policy.recorder import Recorder

pytestmark = pytest.mark.slow

Damage = Callable[[bytearray, int, int], None]  # the segment, where a record begins and ends
TOTAL = 60


def flip(offset: int, bits: int) -> Damage:
    """Some bits of the octet at this offset of the record."""

    def change(data: bytearray, start: int, end: int) -> None:
        data[start + offset] ^= bits

    return change


def zeros(length: int) -> Damage:
    """A block that the disk lost."""

    def change(data: bytearray, start: int, end: int) -> None:
        stop = min(len(data), start + 40 + length)
        data[start + 40 : stop] = bytes(stop - start - 40)

    return change


def garbage(data: bytearray, start: int, end: int) -> None:
    """Noise, with what looks like the beginnings of records in it."""
    data[start:end] = (b"\xa7g\x01\x00\x00\x00\x00\x09" * (end - start))[: end - start]


# What is damaged, and how many records of the segment that touches at most.
DAMAGES: dict[str, tuple[Damage, int]] = {
    "a letter of the JSON": (flip(60, 1), 1),
    "magic": (flip(0, 1), 1),
    "version": (flip(2, 1), 1),
    "CRC": (flip(9, 1), 1),
    **{f"length, bit {n}": (flip(7 - n // 8, 1 << n % 8), 1) for n in range(32)},
    "a lost block": (zeros(4096), 12),
    "a lost sector": (zeros(512), 3),
    "noise": (garbage, 1),
}


def damaged(settings: Settings, change: Damage, which: int, live: bool) -> journal.Writer:
    """A segment of TOTAL records of which one was changed on the disk."""
    w = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
    for n in range(TOTAL):
        assert w.write(message(n))
    (segment,) = journal.segments(journal_of(settings))
    pieces = list(journal.read(segment, 0))
    data = bytearray(segment.read_bytes())
    change(data, pieces[which].start, pieces[which].end)
    handle = os.open(segment, os.O_WRONLY)  # the same file: its writer still holds the lock
    os.pwrite(handle, bytes(data), 0)
    os.close(handle)
    if not live:
        w.close()
    return w


def taken(settings: Settings) -> list[str]:
    """Ingest what can be ingested; the log."""
    told: list[str] = []
    r = Recorder(settings, lambda level, text: told.append(text))
    assert r.lock()
    for _ in range(6):
        r.ingest_once()
    r.close()
    return told


def quarantined(settings: Settings) -> list[Path]:
    place = config.quarantine_dir(settings)
    return sorted(place.iterdir()) if place.exists() else []


@pytest.mark.parametrize("live", [True, False], ids=["writer-alive", "writer-gone"])
@pytest.mark.parametrize("name", DAMAGES)
def test_one_damage_costs_one_record(
    settings: Settings, engine: Engine, name: str, live: bool
) -> None:
    change, most = DAMAGES[name]
    w = damaged(settings, change, TOTAL // 4, live)
    told = taken(settings)
    assert TOTAL - most <= count(engine, "message") < TOTAL
    kept = quarantined(settings)
    assert len(kept) == len(told) == 1, told
    assert "was put into" in told[0]
    assert bool(journal.segments(journal_of(settings))) is live
    w.close()


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_in_the_last_record(settings: Settings, engine: Engine, name: str) -> None:
    damaged(settings, DAMAGES[name][0], TOTAL - 1, live=False)
    told = taken(settings)
    assert count(engine, "message") == TOTAL - 1
    assert len(quarantined(settings)) == len(told) == 1, told
    assert not journal.segments(journal_of(settings))


def test_a_record_that_was_cut_short_is_no_damage(settings: Settings, engine: Engine) -> None:
    """The counter-proof: what kill -9 leaves behind is thrown away without a word."""
    w = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
    for n in range(5):
        w.write(message(n))
    (segment,) = journal.segments(journal_of(settings))
    whole = segment.read_bytes()
    w.close()
    last = list(journal.read(segment, 0))[-1].start
    for cut in (1, 2, HEAD.size - 1, HEAD.size, HEAD.size + 1, len(whole) - last - 1):
        (journal_of(settings) / f"{cut:032x}.seg").write_bytes(whole[last : last + cut])
    assert taken(settings) == []
    assert count(engine, "message") == 5
    assert not quarantined(settings)
    assert not journal.segments(journal_of(settings))


def test_a_lost_block_larger_than_the_read_window(settings: Settings, engine: Engine) -> None:
    frames = [journal.frame(message(n)) for n in range(10)]
    place = journal_of(settings)
    place.mkdir(parents=True)
    data = b"".join(frames[:5]) + bytes(9_000_000) + b"".join(frames[5:])
    (place / "a.seg").write_bytes(data)
    assert len(taken(settings)) == 1
    assert count(engine, "message") == 10
    assert sum(path.stat().st_size for path in quarantined(settings)) == 9_000_000


def test_a_long_backlog_is_read_once(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a batch reads does not grow with what waits behind it."""
    monkeypatch.setattr("gatepost_policy.journal.writer.SEGMENT_BYTES", 20_000)
    monkeypatch.setattr("gatepost_policy.recorder.intake.BATCH_RECORDS", 20)
    w = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
    for n in range(600):
        w.write(message(n))
    w.close()
    parsed = 0
    real = reading._record

    def counted(data: bytes, at: int) -> object:
        nonlocal parsed
        parsed += 1
        return real(data, at)

    monkeypatch.setattr(reading, "_record", counted)
    taken(settings)
    # Six batches of twenty; a look ahead at each segment, and one record behind each batch.
    assert count(engine, "message") == 120
    assert parsed < 200


def test_what_is_no_segment_holds_nobody_up(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    """A directory, a pipe that nobody writes to, a link: left alone, and the records come in."""
    w = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
    assert w.write(message(1))
    w.close()
    secret = tmp_path / "secret"
    secret.write_text("of another program")
    (journal_of(settings) / "a.seg").mkdir()
    os.mkfifo(journal_of(settings) / "b.seg")
    (journal_of(settings) / "c.seg").symlink_to(secret)
    assert taken(settings) == []
    assert count(engine, "message") == 1
    assert quarantined(settings) == []
    assert secret.read_text() == "of another program"
