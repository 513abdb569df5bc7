"""Logs whose lines have no year: a jump back is New Year's Eve, and a copy is the same log."""

import gzip
import json
import os
import struct
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fix_cli import Run
from gatepost_policy.importers.clock import Clock, Years

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


def log(*days: str) -> str:
    """One message a line of `days`, each on its own queue id."""
    out = ""
    for n, day in enumerate(days):
        head = f"{day} 10:00:00 mx postfix"
        name = f"4XbcdF1z2y3w{'BCDFGHJKLM'[n]}"
        out += f"{head}/smtpd[1]: {name}: client=m.spam.example[192.0.2.10]\n"
        out += (
            f"{head}/qmgr[1]: {name}: from=<a@spam.example>, size={n + 1}, nrcpt=1 (queue active)\n"
        )
        out += f"{head}/lmtp[1]: {name}: to=<trap@home.example>, relay=x[1.1.1.1]:24, status=sent\n"
        out += f"{head}/qmgr[1]: {name}: removed\n"
    return out


def years(text: str, reference: float = NOW) -> list[int]:
    found = Years()
    lines = text.splitlines()
    found.take(lines)
    clock = Clock(UTC, reference, found.begin(reference))
    out = []
    for line in lines:
        if "client=" in line:
            at = clock.syslog(line[:12], line[13:15])
            assert at is not None
            out.append(datetime.fromtimestamp(at, UTC).year)
    return out


@pytest.mark.parametrize(
    ("days", "want"),
    [
        (["Nov 20", "Jan 10", "Nov 20", "Jan 10", "Nov 20"], [2024, 2025, 2025, 2026, 2026]),
        (["Nov 20", "Nov 21"], [2026, 2026]),
        (["Dec 24"], [2025]),  # not after today
        (["Dec 31", "Jan  1", "Dec 31", "Jan  1"], [2025, 2026, 2025, 2026]),  # out of order
        (["Nov 20", "Nov 19", "Nov 20"], [2026, 2026, 2026]),
        (["Nov 20", "Nov 10"], [2025, 2026]),  # nearly a year of silence
        (["Feb 29", "Nov 20", "Feb 29"], [2023, 2023, 2024]),
    ],
)
def test_years_of_a_log(days: list[str], want: list[int]) -> None:
    if days[0] == "Feb 29":
        days = days[1:]
        want = want[1:]
        assert years(log(*days), datetime(2024, 3, 1, tzinfo=UTC).timestamp()) == want
        return
    assert years(log(*days)) == want


def seen(run: Run) -> list[str]:
    code, output = run("report", "--sender", "spam.example", "--format", "json")
    assert code == 0
    return sorted(one["at"][:10] for one in json.loads(output)["messages"])


def test_a_copy_with_another_time_stamp_adds_nothing(run: Run, tmp_path: Path) -> None:
    text = log("Nov 20", "Jan 10", "Nov 20")
    first, copy = tmp_path / "mail.log", tmp_path / "copy.log"
    first.write_text(text)
    copy.write_text(text)
    os.utime(copy, (1.4e9, 1.4e9))
    code, output = run("import", "postfix", str(first), "--zone", "UTC")
    assert code == 0 and "3 new" in output
    assert "no year in its lines; taken 20" in output
    before = seen(run)
    code, output = run("import", "postfix", str(copy), "--zone", "UTC")
    assert code == 0 and "0 new, 3 known already" in output
    assert seen(run) == before and len({day[:4] for day in before}) >= 2


def test_what_an_import_took_is_kept(run: Run, tmp_path: Path) -> None:
    """Next year the same log is the same history: the store knows its messages."""
    first = tmp_path / "mail.log"
    first.write_text(log("Nov 20", "Jan 10", "Nov 20"))
    assert "3 new" in run("import", "postfix", str(first), "--zone", "UTC", "--year", "2019")[1]
    code, output = run("import", "postfix", str(first), "--zone", "UTC")
    assert code == 0 and "0 new, 3 known already" in output and "taken" not in output
    assert seen(run) == ["2019-11-20", "2020-01-10", "2020-11-20"]


@pytest.mark.parametrize("name", ["mail.log-20201201", "mail.log-2020-12-01.gz", "noted.gz"])
def test_a_file_that_knows_its_date(run: Run, tmp_path: Path, name: str) -> None:
    data = log("Nov 20", "Jan 10", "Nov 20").encode()
    if name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    if name == "noted.gz":
        noted = int(datetime(2020, 12, 1, tzinfo=UTC).timestamp())
        data = data[:4] + struct.pack("<I", noted) + data[8:]
    (tmp_path / name).write_bytes(data)
    code, output = run("import", "postfix", str(tmp_path / name), "--zone", "UTC")
    assert code == 0 and "taken" not in output
    assert seen(run) == ["2019-11-20", "2020-01-10", "2020-11-20"]


@pytest.mark.parametrize("written", ["Oct 25 {}", "2026-10-25 {}"])
def test_the_hour_that_comes_twice(written: str) -> None:
    """The night in which the clocks go back: the second time begins where the log goes back."""
    clock = Clock(ZoneInfo("Europe/Berlin"), NOW)
    read = clock.iso if written.startswith("2026") else clock.syslog
    told = ("01:59", "02:10", "02:59", "02:58", "02:00", "02:01", "02:59", "03:00", "03:30")
    times = [read(written.format(one), "00") for one in told]
    first = 1792886340.0  # 2026-10-24T23:59:00Z
    minutes = [0, 11, 60, 59, 61, 62, 120, 121, 151]
    assert times == [first + minute * 60 for minute in minutes]
