"""Whether a store's write-ahead log was cut: what it costs a process that looks at many of them."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fix_store import settings_in
from gatepost_policy import store
from gatepost_policy.store import file_identity


def test_a_process_may_have_many_stores_open(tmp_path: Path) -> None:
    """The log of the last one is looked at as that of the first; of closed ones nothing stays."""
    for count in (70, 90):
        with ExitStack() as stack:
            for path in (paths := [tmp_path / f"{count}-{number}" for number in range(count)]):
                db = stack.enter_context(closing(sqlite3.connect(path)))
                db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t (x)")
                assert not file_identity.is_cut(path)
            os.truncate(f"{paths[-1]}-wal", 100)
            assert file_identity.is_cut(paths[-1])
            held = [file for file in open_files() if file.startswith(f"{tmp_path}/")]
            assert not [file for file in held if file.endswith("-shm (deleted)")]


def open_files() -> list[str]:
    """The names of all files that this process has open, other tests' among them."""
    return [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_no_store(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """SQLite would write its journal, and we a lock, beside a device or a directory."""
    path = tmp_path / "x.sqlite"
    make(path)
    with pytest.raises(store.StoreError, match="x.sqlite: is no plain file"):
        store.open_engine(settings_in(tmp_path, str(path)))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
