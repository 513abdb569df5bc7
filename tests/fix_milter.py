"""Fixtures of the milter's tests: `--update-cases`, and a daemon that plays golden cases."""

import json
import signal
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import casefile
import fix_store
from daemons import BIN, ENGINES, Daemon, Process, Running
from gatepost_milter.mta import client, queue_file
from gatepost_policy import listings, lookup, recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal import record
from gatepost_policy.store import tables


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-cases` rewrites [expected] of every case from the pure run; read the diff."""
    parser.addoption("--update-cases", action="store_true", help="rewrite tests/cases")


@pytest.fixture(scope="session")
def milter_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine that this test's daemons run on. Tests of the real daemon run on each."""
    Running.engine = getattr(request, "param", "libmilter")
    yield Running.engine
    Running.engine = "libmilter"


# Rooms whose tests need a milter, and not one engine or the other: once is enough.
ANY_ENGINE = frozenset(
    "cli doctor exporters importers monitoring policyd retention setup tree web".split()
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is about the milter runs on both engines."""
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if metafunc.definition.path.parent.name in ANY_ENGINE:
        return
    if "milter_engine" in metafunc.fixturenames or marks & {"milter", "crash", "postfix"}:
        if "one_engine" in marks:
            return
        if "milter_engine" not in metafunc.fixturenames:
            metafunc.fixturenames.insert(0, "milter_engine")
        metafunc.parametrize("milter_engine", ENGINES, indirect=True, scope="session")


def _engine_of(item: pytest.Item) -> str | None:
    return getattr(getattr(item, "callspec", None), "params", {}).get("milter_engine")


def _parts(value: object) -> list[object]:
    if isinstance(value, (tuple, list)):
        return list(value)
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    return list(getattr(value, "__dict__", {}).values())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that is about no engine runs on the default one, whatever ran before it."""
    Running.engine = _engine_of(item) or "libmilter"


def pytest_runtest_call(item: pytest.Item) -> None:
    """A daemon that a wide fixture kept would let this test pass on the other engine."""
    wanted = _engine_of(item)
    given = list(getattr(item, "funcargs", {}).values())
    for value in list(given):
        given += _parts(value)
    for value in given:
        if wanted is not None and isinstance(value, Daemon) and value in Running.started:
            kept = Running.started[value]
            assert kept == wanted, f"{item.name}: its fixture must ask for milter_engine"


class CaseDaemon:
    """One real gatepost-milter in replay mode. Its configuration changes by HUP."""

    def __init__(self, home: Path, cases: list[casefile.Case]) -> None:
        self.home = home
        self.socket = f"unix:{home}/m.sock"
        self.config = home / "gatepost.toml"
        self.wanted = ""
        self._write("")
        _fill_store(self.settings(Settings()), cases)
        self.process = Process(
            [BIN / "gatepost-milter", "--replay", "--config", self.config], home / "log"
        )
        self.process.wait_for("ready")
        self.taken = len(self.process.text())

    def settings(self, settings: Settings) -> Settings:
        """`settings` with this daemon's places."""
        return replace(
            settings,
            milter=replace(settings.milter, socket=self.socket),
            store=replace(settings.store, url=f"sqlite:///{self.home}/gatepost.sqlite"),
        )

    def _write(self, more: str) -> None:
        document = tomllib.loads(more)
        document.setdefault("milter", {}).update(
            socket=self.socket, workers=1, engine=Running.engine
        )
        document.setdefault("log", {})["format"] = "json"
        document.setdefault("store", {})["url"] = f"sqlite:///{self.home}/gatepost.sqlite"
        self.config.write_text(toml(document))

    def configure(self, more: str) -> None:
        """Make the daemon run with `more` added to its configuration."""
        if more == self.wanted:
            return
        self._write(more)
        before = self.process.text().count('"reloaded"')
        self.process.child.send_signal(signal.SIGHUP)
        end = time.monotonic() + 30
        while self.process.text().count('"reloaded"') == before:
            assert time.monotonic() < end, self.process.text()
            time.sleep(0.01)
        self.wanted = more

    def play(self, case: casefile.Case, hiding: str) -> tuple[client.Result, dict[str, object]]:
        """What the MTA got, and the log line of the message."""
        self.configure(case.sections["settings"])
        self.taken = len(self.process.text())
        macros = {**replay_macros(case), **case.envelope.macros}
        session = client.Session(
            self.socket,
            case.envelope,
            hiding,
            **offer(case.offer),  # type: ignore[arg-type]
        )
        envelope = replace(case.envelope, macros=macros)
        with session, odd_fields(case):
            result = session.send(case.message, envelope)
        return result, self._line()

    def _line(self) -> dict[str, object]:
        end = time.monotonic() + 30
        while True:
            for line in self.process.text()[self.taken :].splitlines():
                if '"reason"' in line and line.endswith("}"):
                    return dict(json.loads(line))
            assert time.monotonic() < end, self.process.text()
            time.sleep(0.01)


def replay_macros(case: casefile.Case) -> dict[str, str | bytes | None]:
    """What `milterctl replay` sends beside Postfix's macros: the time, and DNS answers."""
    return {"{gatepost_at}": str(casefile.AT), "{gatepost_dns}": json.dumps(case.dns)}


@contextmanager
def odd_fields(case: casefile.Case) -> Iterator[None]:
    """Add fields to the header that Postfix would not have let through."""

    class Odd(queue_file.QueueFile):
        @classmethod
        def receive(cls, message: bytes, *args: Any, **more: Any) -> queue_file.QueueFile:
            queued = queue_file.QueueFile.receive(message, *args, **more)
            queued.fields += [queue_file.Field(n.encode(), v) for n, v in case.extra]
            return queued

    with patch.object(client, "QueueFile", Odd):
        yield


def offer(words: str) -> dict[str, int]:
    """`actions=0x1 steps=0x0 version=2` of a case's `offer`."""
    pairs = (word.partition("=") for word in words.split())
    return {name: int(value, 0) for name, _, value in pairs}


def toml(document: dict[str, Any], name: str = "") -> str:
    """`document` as TOML; JSON's forms of text, numbers and lists are TOML's as well."""
    plain = {k: v for k, v in document.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in document.items() if isinstance(v, dict)}
    lines = [f"[{name}]"] if name and plain else []
    lines += [f"{k} = {json.dumps(v)}" for k, v in plain.items()]
    parts = [toml(v, f"{name}.{k}" if name else k) for k, v in tables.items()]
    return "\n".join([*lines, *parts]) + "\n"


def _fill_store(settings: Settings, cases: list[casefile.Case]) -> None:
    """Everything any case wants known: cases use clients of their own where it matters."""
    engine = store.open_engine(settings)
    now = time.time()
    good = [m for case in cases for n in case.known["good"] for m in _good_mail(case, int(n))]
    recorder.record_batch(engine, good, settings, casefile.AT)
    with store.writing(engine) as connection:
        for case in cases:
            for trap in case.known["trap"]:
                traps.add(connection, trap, at=casefile.AT - 1000)
            for text in case.known["listed"]:
                listings.punish(connection, listings.identify(text), at=now, seconds=86_400)
        for text in sorted({x for case in cases for x in case.known["repeat"]}):
            identity = listings.identify(text)
            connection.execute(
                tables.SenderIdentity.__table__.insert().values(  # type: ignore[attr-defined]
                    kind=identity.kind, value=identity.value, first_seen=0, last_seen=0,
                    learned=0, messages=3, trap_messages=1, days=3, ipv4=3, ipv6=0, repeat=True,
                )
            )  # fmt: skip
        lookup.publish(connection, Path(settings.store.url[10:]).parent, settings)
    engine.dispose()


def _good_mail(case: casefile.Case, number: int) -> list[record.Json]:
    """Mail of this client on as many days, proven by the sender's domain where the case signs."""
    domain = case.envelope.sender.rpartition("@")[2]
    signed = b"DKIM-Signature:" in case.message
    return [
        fix_store.message(
            n,
            at=casefile.AT - (n + 1) * 86_400,
            client=case.envelope.client,
            sender=case.envelope.sender,
            message_id=f"<{case.name}-{n}@{domain}>",
            signatures=(fix_store.signature(domain),) if signed else (),
        )
        for n in range(number)
    ]


@pytest.fixture(scope="session")
def case_daemon(
    milter_engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CaseDaemon]:
    """The daemon that all golden cases share."""
    daemon = CaseDaemon(tmp_path_factory.mktemp("cases"), casefile.everything())
    yield daemon
    daemon.process.child.send_signal(signal.SIGTERM)
    daemon.process.child.wait(10)


HIDINGS = (queue_file.HIDE_FIRST, queue_file.HIDE_PREFIX)
