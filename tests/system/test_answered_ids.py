"""The queue ids that were answered: shared, kept over a restart, bounded, forgotten in time."""

from pathlib import Path

import pytest

from gatepost_policy.system import answered_ids
from gatepost_policy.system.answered_ids import KEPT_S, NAME, SIZE, AnsweredIds

AT = 1_700_000_000.0


def test_one_worker_writes_and_another_one_reads(tmp_path: Path) -> None:
    one, other = AnsweredIds(tmp_path), AnsweredIds(tmp_path)
    assert not other.knows("mx.example", "4ABC", AT)
    one.remember("mx.example", "4ABC", AT)
    assert other.knows("MX.example", "4ABC", AT + 60)
    assert not other.knows("mx.example", "4ABD", AT)
    assert not other.knows("mx2.example", "4ABC", AT)
    assert AnsweredIds(tmp_path).knows("mx.example", "4ABC", AT + 60)  # after a restart


def test_forgotten_after_five_days(tmp_path: Path) -> None:
    ids = AnsweredIds(tmp_path)
    ids.remember("mx", "4ABC", AT)
    assert ids.knows("mx", "4ABC", AT + KEPT_S - 60)
    assert not ids.knows("mx", "4ABC", AT + KEPT_S + 120)
    ids.remember("mx", "4ABC", AT + KEPT_S + 120)
    assert ids.knows("mx", "4ABC", AT + KEPT_S + 120)


def test_a_full_bucket_loses_its_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answered_ids, "BUCKETS", 1)
    ids = AnsweredIds(tmp_path)
    for n in range(20):
        ids.remember("mx", f"id{n}", AT + 60 * n)
    known = [n for n in range(20) if ids.knows("mx", f"id{n}", AT + 1200)]
    assert known == list(range(12, 20))


def test_bounded_and_unreadable(tmp_path: Path) -> None:
    ids = AnsweredIds(tmp_path)
    for n in range(2000):
        ids.remember("mx.example", f"4ABC{n:05}", AT)
    path = tmp_path / NAME
    assert path.stat().st_size == SIZE and path.stat().st_mode & 0o777 == 0o600
    data = path.read_bytes()
    assert b"4ABC" not in data and b"mx.example" not in data
    assert sum(ids.knows("mx.example", f"4ABC{n:05}", AT) for n in range(2000)) == 2000
    assert sum(ids.knows("mx.example", f"5ABC{n:05}", AT) for n in range(2000)) == 0


def test_a_file_of_another_kind_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"something else")
    ids = AnsweredIds(tmp_path)
    ids.remember("mx", "4ABC", AT)
    assert AnsweredIds(tmp_path).knows("mx", "4ABC", AT)
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME]
