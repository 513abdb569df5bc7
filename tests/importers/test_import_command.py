"""`milterctl import`: packed, rotated, damaged and repeated logs, and what the summary says."""

import bz2
import gzip
import json
import lzma
import os
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

import rings
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import to_json
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.log_file import MAX_LINE_BYTES, LogFile
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.store.tables import Message, SubmissionCount

LOG = "".join(
    f"2026-11-{day:02} 10:00:00 1QFOdo-0001zq-{day:02} {event}\n"
    for day in (1, 2, 3)
    for event in (
        "<= a@b.example H=mx.b.example [192.0.2.7] P=smtp S=1",
        "=> x@home.example R=r T=t",
        "Completed",
    )
)


@pytest.fixture
def milterctl(tmp_path: Path, settings: Settings, run_milterctl: Any) -> Any:
    """`milterctl` on a store of this test's own."""
    config = tmp_path / "gatepost.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{settings.store.url}"\n')

    def run(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
        got: tuple[int, str, str] = run_milterctl("--config", config, *arguments, stdin=stdin)
        return got

    return run


def test_rotated_and_packed_logs_in_any_order(
    tmp_path: Path, milterctl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message whose lines stand in two files is one."""
    monkeypatch.chdir(tmp_path)
    lines = LOG.splitlines(keepends=True)
    (tmp_path / "mainlog").write_text("".join(lines[7:]).replace("\n", "\r\n"))
    (tmp_path / "mainlog.1").write_bytes(bz2.compress("".join(lines[4:7]).encode()))
    (tmp_path / "mainlog.2.gz").write_bytes(gzip.compress("".join(lines[2:4]).encode()))
    (tmp_path / "mainlog.3.xz").write_bytes(lzma.compress("".join(lines[:2]).encode()))
    logs = ["mainlog", "mainlog.1", "mainlog.2.gz", "mainlog.3.xz"]
    code, out, err = milterctl("import", "exim", *logs, "--zone", "UTC")
    assert (code, err) == (0, "")
    assert out == "9 lines: 3 new, 0 known already (delivery 3, inbound 3)\n"
    code, out, err = milterctl("import", "exim", "-", "--zone", "UTC", stdin=LOG.encode())
    assert out.startswith("9 lines: 0 new, 3 known already")
    code, out, err = milterctl("report", "--sender", "b.example", "--format", "json")
    assert json.loads(out)["summary"]["first_seen"] == "2026-11-01T10:00:00Z"


def test_submissions_are_counted_once(milterctl: Any) -> None:
    line = LOG.splitlines()[0].replace("P=smtp", "P=esmtpsa A=plain:alice").encode() + b"\n"
    for new in (1, 0):
        code, out, err = milterctl("import", "exim", "-", "--zone", "UTC", stdin=line)
        # Without its end an arrival an hour before the log's may go on; one line is the log.
        assert (code, out[:7]) == (0, "1 line:")
        whole = line + line.partition(b" <=")[0] + b" Completed\n"
        code, out, err = milterctl("import", "exim", "-", "--zone", "UTC", stdin=whole)
        assert f": {new} new," in out, out
        assert (", 1 of them only counted," in out) == bool(new)


def test_zone(milterctl: Any) -> None:
    code, out, err = milterctl("import", "exim", "-", "--zone", "Europe/Nowhere")
    assert (code, out) == (2, "") and "no such time zone" in err and err.count("\n") == 1
    code, out, err = milterctl("import", "exim", "-", "--zone", "Europe/Berlin", stdin=LOG.encode())
    assert code == 0, err  # tzdata is a dependency, so no system's database is needed
    code, out, err = milterctl("report", "--sender", "b.example", "--format", "json")
    assert json.loads(out)["summary"]["first_seen"] == "2026-11-01T09:00:00Z"


def test_problems(tmp_path: Path, milterctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = milterctl("import", "exim", "nowhere.log")
    assert (code, out, err) == (1, "", "milterctl: nowhere.log: No such file or directory\n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(LOG.encode() + os.urandom(9999))[:3000])
    code, out, err = milterctl("import", "exim", "cut.gz", "--zone", "UTC")
    assert code == 1 and "3 new" in out and "cut.gz: damaged, read up to there" in err
    junk = "no line of Exim's \x1b[1m\n" * 30
    code, out, err = milterctl("import", "exim", "-", stdin=junk.encode())
    assert (code, out) == (1, "30 lines: 0 new, 0 known already (unparsed 30)\n")
    reason = "-: no line of it is Exim's; --verbose shows the first\n"
    assert err == f"30 lines were not understood; --verbose shows them\n{reason}"
    code, out, err = milterctl("import", "exim", "-v", "-", stdin=junk.encode())
    assert err.count("not understood: no line of Exim's \\x1b[1m\n") == 20
    assert err.endswith(f"not understood: 10 more\n{reason}")


def test_a_journal_export(milterctl: Any) -> None:
    block = (
        "__CURSOR=x\n__REALTIME_TIMESTAMP=1795168800000000\n_HOSTNAME=mx\n"
        "SYSLOG_IDENTIFIER=postfix/smtpd\n_PID=1\nMESSAGE={}\n\n"
    )
    line = (
        "NOQUEUE: reject: RCPT from unknown[2001:db8::7]: 550 5.1.1 <t@home.example>: no;"
        " from=<a@b.example> to=<t@home.example> proto=ESMTP helo=<h>"
    )
    data = block.format("connect from x[192.0.2.7]") + block.format(line)
    code, out, err = milterctl("import", "postfix", "-", stdin=data.encode())
    assert out == "2 lines: 1 new, 0 known already (other 1, refused 1)\n", err


def test_endless_lines_do_not_fill_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"x" * 5_000_000 + b"\n" + LOG.encode())
    log = LogFile(str(file))
    lines = [line for part in log.lines() for line in part]
    log.close()
    assert len(lines) == 10 and len(lines[0]) <= MAX_LINE_BYTES


@pytest.mark.corpus
def test_every_log_of_the_corpus() -> None:
    """Counts by kind and no traceback; each line is counted once."""
    named = os.environ.get("GATEPOST_CORPUS")
    if not named:
        rings.missing("corpus", "$GATEPOST_CORPUS names no corpus")
    files = sorted(p for p in Path(named, "logs").rglob("*") if p.is_file())
    assert len(files) > 100
    wanted: list[tuple[Exim | Postfix, tuple[str, ...]]] = [
        (Exim(), ("inbound", "refused", "submission", "local", "dkim")),
        (Postfix(), ("local", "refused", "logins")),
    ]
    for importer, kinds in wanted:
        seen = 0
        for path in files:
            log = LogFile(str(path))
            clock = Clock(None, log.modified or 0.0)
            for lines in log.lines():
                seen += len(list(importer.lines(lines, clock)))
            log.close()
        seen += len(list(importer.finish()))
        counts = importer.tally.kinds
        assert seen > 20 and all(counts[kind] for kind in kinds), counts


def test_a_second_import_changes_nothing_on_any_database(any_settings: Settings) -> None:
    """Messages by their keys, submissions by keys that belong to no message."""
    lines = LOG.splitlines()
    submitted = [line.replace("0001zq", "0001zr").replace("P=smtp", "P=esmtpa") for line in lines]
    engine = store.open_engine(any_settings)
    told = []
    for _ in range(2):
        exim = Exim()
        seen = [*exim.lines([*lines, *submitted], Clock(UTC, 1.8e9)), *exim.finish()]
        records = [to_json(one) for one in seen]
        told.append(recorder.record_batch(engine, records, any_settings))
    with store.reading(engine) as connection:
        count = connection.execute(select(func.sum(SubmissionCount.messages))).scalar_one()
        rows = connection.execute(select(func.count()).select_from(Message)).scalar_one()
    engine.dispose()
    assert (told, count, rows) == ([6, 0], 3, 3)


def test_a_log_without_years_on_standard_input(milterctl: Any) -> None:
    """It has to be read twice: the year of its beginning depends on its end."""
    line = "{} 10:00:00 mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from x[192.0.2.7]: 550 no; from=<a@b.example> to=<t@home.example> proto=ESMTP helo=<h>\n"  # noqa: E501
    text = "".join(line.format(day) for day in ("Nov 20", "Jan 10", "Nov 20"))
    code, out, err = milterctl("import", "postfix", "-", "--zone", "UTC", stdin=text.encode())
    assert (code, out) == (0, "3 lines: 3 new, 0 known already (refused 3)\n")
    assert "no year in its lines; taken 20" in err


def test_an_import_is_listed_and_taken_back(tmp_path: Path, milterctl: Any) -> None:
    log = tmp_path / "mainlog"
    log.write_text(LOG)
    own = LOG.splitlines()[0].replace("P=smtp", "P=esmtpsa A=plain:alice").replace("-01", "-09")
    (tmp_path / "own").write_text(f"{own}\n{own.partition(' <=')[0]} Completed\n")
    assert milterctl("import", "--list")[:2] == (0, "no imports\n")
    code, _, err = milterctl("import", "exim", log, tmp_path / "own", "--zone", "UTC")
    assert (code, err) == (0, "")
    milterctl("import", "exim", log, "--zone", "UTC")
    code, out, err = milterctl("import", "--list", "--format", "json")
    first, again = json.loads(out)
    assert first["files"] == [str(log), str(tmp_path / "own")]
    assert (first["messages"], first["submissions"], first["lines"]) == (3, 1, 11)
    assert (again["messages"], again["submissions"]) == (0, 0)
    assert "mainlog" in milterctl("import", "--list")[1]
    # Nobody can be asked here.
    code, out, err = milterctl("import", "--undo", str(first["id"]))
    assert (code, out) == (2, "")
    assert "--yes" in err
    code, out, err = milterctl("import", "--undo", "99", "--yes")
    assert (code, out) == (1, "")
    assert "import 99 cannot be taken back: there is no such import" in err
    code, out, err = milterctl("import", "--undo", str(first["id"]), "--yes")
    assert (code, err) == (0, "")
    assert out == (
        f"import {first['id']} is taken back: 0 messages, 1 submission; 3 stay, because another"
        " import has told of them as well\n"
    )
    code, out, err = milterctl("import", "--undo", str(again["id"]), "--yes", "--format", "json")
    assert json.loads(out) == {"messages": 3, "submissions": 0, "passed_on": 0, "guesses": 0}
    assert milterctl("import", "--list")[1] == "no imports\n"
    code, out, err = milterctl("report", "--sender", "b.example", "--format", "json")
    assert json.loads(out)["summary"]["messages"] == 0


def test_what_import_does_not_take(milterctl: Any) -> None:
    for words in (
        ["import"],
        ["import", "--list", "--undo", "1"],
        ["import", "--list", "exim", "x"],
    ):
        code, out, err = milterctl(*words)
        assert (code, out) == (2, ""), words
        assert err.startswith("milterctl: "), words
