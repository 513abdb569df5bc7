"""The journal: what is written can be read, whatever happens to the file or the disk."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from fix_store import message
from gatepost_policy import journal
from gatepost_policy.journal.record import Json
from gatepost_policy.journal.segment import HEAD, parse
from gatepost_policy.system import faults


def everything(directory: Path) -> list[Json]:
    """All records of all segments."""
    out: list[Json] = []
    for segment in journal.segments(directory):
        out += [p.data for p in journal.read(segment, 0) if p.data is not None]
    return out


def writer(directory: Path, max_bytes: int = 1 << 30, sync: str = "process") -> journal.Writer:
    return journal.Writer(directory, max_bytes=max_bytes, sync=sync)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    w = writer(tmp_path)
    want = [message(n, sender="\udcff\0bad@sender.example") for n in range(3)]
    assert all(w.write(obj) for obj in want)
    assert everything(tmp_path) == want
    (segment,) = journal.segments(tmp_path)
    assert segment.stat().st_mode & 0o777 == 0o600


def test_a_segment_is_locked_while_its_writer_lives(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.write(message())
    (segment,) = journal.segments(tmp_path)
    assert not journal.abandoned(segment)
    w.close()
    assert journal.abandoned(segment)
    w.write(message(1))
    assert len(journal.segments(tmp_path)) == 2, "a segment is never opened again"


@pytest.mark.parametrize("sync", ["process", "power"])
def test_threads_write_whole_records(tmp_path: Path, sync: str) -> None:
    w = writer(tmp_path, sync=sync)
    threads = [
        threading.Thread(target=lambda t=t: [w.write(message(t * 100 + n)) for n in range(50)])
        for t in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({obj["queue_id"] for obj in everything(tmp_path)}) == 400


def test_a_large_segment_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepost_policy.journal.writer.SEGMENT_BYTES", 2_000)
    w = writer(tmp_path)
    assert all(w.write(message(n)) for n in range(20))
    assert len(journal.segments(tmp_path)) > 3
    assert len(everything(tmp_path)) == 20


CUTS = (1, 5, HEAD.size, HEAD.size + 1, -1)


@pytest.mark.parametrize("cut", CUTS)
def test_a_record_cut_short_is_not_read_and_is_torn(tmp_path: Path, cut: int) -> None:
    whole, more = journal.frame(message(1)), journal.frame(message(2))
    path = tmp_path / "x.seg"
    path.write_bytes(whole + more[:cut])
    (piece,) = journal.read(path, 0)
    assert piece.end == len(whole)
    assert journal.is_torn(path.read_bytes()[piece.end :])


def test_damage_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    frames = [journal.frame(message(n)) for n in range(3)]
    broken = bytearray(frames[1])
    broken[30] ^= 0xFF
    path = tmp_path / "x.seg"
    path.write_bytes(frames[0] + bytes(broken) + frames[2])
    got = list(journal.read(path, 0))
    assert [p.data is None for p in got] == [False, True, False]
    assert got[1].raw == bytes(broken)
    assert got[2].end == path.stat().st_size


def test_each_bit_of_a_record_counts(tmp_path: Path) -> None:
    """One bit anywhere, in its head too: it is no record, and nothing of it is believed."""
    w = writer(tmp_path)
    w.write({"queue_id": "Q"})
    w.close()
    (segment,) = journal.segments(tmp_path)
    sound = segment.read_bytes()
    assert [p.data for p in parse(sound + sound)] == [{"queue_id": "Q"}] * 2
    for bit in range(len(sound) * 8):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        found = list(parse(bytes(damaged) + sound))
        assert [p.data for p in found] == [None, {"queue_id": "Q"}], bit


def test_a_record_larger_than_the_read_window(tmp_path: Path) -> None:
    path = tmp_path / "x.seg"
    path.write_bytes(journal.frame(message(1)) + journal.frame({"at": 0, "big": "x" * 10_000}))
    (first,) = journal.read(path, 0, limit=900)
    (second,) = journal.read(path, first.end, limit=900)
    assert second.data is not None and len(second.data["big"]) == 10_000


def test_a_full_journal_counts_what_it_loses(tmp_path: Path) -> None:
    one = len(journal.frame(message(0)))
    w = writer(tmp_path, max_bytes=one * 3 + 100)
    assert [w.write(message(n)) for n in range(6)] == [True] * 3 + [False] * 3
    assert w.lost == 3
    # The recorder has taken the segment away: room again, and the gap is told first.
    for segment in journal.segments(tmp_path):
        segment.unlink()
    w._leave()
    w._retry_at = 0
    assert w.write(message(6))
    gap, after = everything(tmp_path)
    assert (gap["kind"], gap["lost"]) == ("gap", 3)
    assert (gap["since"], gap["at"]) == (message(3)["at"], message(5)["at"])
    assert after["queue_id"] == "Q6"
    assert w.lost == 0


def test_mail_that_never_pauses_is_kept_again(tmp_path: Path) -> None:
    """The limit is reached, then the recorder has made room; a message comes every 30 ms."""
    one = len(journal.frame(message(0)))
    w = writer(tmp_path, max_bytes=one * 3 + 1000)
    other = tmp_path / "other.seg"
    other.write_bytes(bytes(w.max_bytes))
    assert not w.write(message(0))
    other.unlink()
    end = time.monotonic() + 5
    while not w.write(message(1)):
        assert time.monotonic() < end, "never tried again"
        time.sleep(0.03)
    assert [obj["kind"] for obj in everything(tmp_path)] == ["gap", "message"]


def test_what_was_accepted_waits_for_a_directory(tmp_path: Path) -> None:
    """The directory is removed and cannot be made again at once."""
    w = writer(place := tmp_path / "journal")
    assert w.write(message(0)) and w.write(message(1))
    shutil.rmtree(place)
    place.write_text("in the way")
    assert not w.write(message(2))
    assert not w.write(message(3))
    place.unlink()
    w._retry_at = 0
    assert w.write(message(4))
    found = everything(place)
    assert [obj.get("queue_id") for obj in found] == ["Q0", "Q1", None, "Q4"]
    assert found[2]["lost"] == 2


@pytest.mark.parametrize("where", ["open", "write"])
def test_a_full_disk_never_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    w = writer(tmp_path)
    monkeypatch.setattr(faults, "ARMED", {f"full:{where}": 1})
    assert not w.write(message(0))
    monkeypatch.setattr(faults, "ARMED", {})
    w._retry_at = 0
    assert w.write(message(1))
    assert [obj["kind"] for obj in everything(tmp_path)] == ["gap", "message"]


def test_half_a_write_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = writer(tmp_path)
    assert w.write(message(0))
    real = os.write

    def half(handle: int, data: bytes) -> int:
        return real(handle, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    assert not w.write(message(1))
    monkeypatch.setattr(os, "write", real)
    w._retry_at = 0
    assert w.write(message(2))
    assert [obj["kind"] for obj in everything(tmp_path)] == ["message", "gap", "message"]


def test_no_directory_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    w = writer(tmp_path / "file" / "journal")
    assert not w.write(message())
    w.close()


def test_power_says_false_where_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = writer(tmp_path, sync="power")
    assert w.write(message(0))

    def refuse(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    assert not w.write(message(1))


def test_one_fdatasync_serves_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = writer(tmp_path, sync="power")
    w.write(message(0))
    calls, real = [], os.fdatasync
    gate, waiting = threading.Event(), threading.Semaphore(0)

    def slow(handle: int) -> None:
        calls.append(handle)
        waiting.release()
        assert gate.wait(30)
        real(handle)

    monkeypatch.setattr(os, "fdatasync", slow)
    threads = [threading.Thread(target=w.write, args=(message(n),)) for n in range(1, 9)]
    threads[0].start()
    waiting.acquire()
    for thread in threads[1:]:
        thread.start()
    (segment,) = journal.segments(tmp_path)
    while len(list(journal.read(segment, 0))) < 9:
        pass
    gate.set()
    for thread in threads:
        thread.join()
    assert len(calls) <= 3, "eight records, but never eight syncs"
