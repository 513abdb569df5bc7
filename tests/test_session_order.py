"""Callbacks in any order: no exception gets out, and no message gets into another's record."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import milter
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost_milter.engine import callbacks
from gatepost_milter.engine.shared import Worker
from gatepost_milter.filter.gate import Gate
from gatepost_policy.config.settings import Settings, Store

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("mail"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("rcpt"), st.integers(0, 9), st.booleans()),
        st.tuples(
            st.sampled_from(["connect", "helo", "header", "eoh", "body", "eom", "abort"]),
            st.integers(0, 9),
            st.booleans(),
        ),
    ),
    max_size=40,
)


class Context:
    """libmilter's side of one connection, recorded."""

    def __init__(self) -> None:
        self.private: Any = None
        self.macros: dict[str, str] = {"j": "mx.example.net", "v": "Postfix 3.7.11", "i": "4ABC"}
        self.replies: list[tuple[str, ...]] = []

    def setpriv(self, value: Any) -> None:
        self.private = value

    def getpriv(self) -> Any:
        return self.private

    def getsymval(self, name: str) -> str | None:
        return self.macros.get(name)

    def setreply(self, *parts: str) -> None:
        self.replies.append(parts)

    def addheader(self, name: str, value: str, index: int) -> None:
        assert "\r" not in value

    chgheader = addheader

    def delrcpt(self, recipient: str) -> None: ...


@pytest.fixture
def records(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """What a worker would journal."""
    store = Store(url=f"sqlite:///{tmp_path}/x.sqlite", submission="full")
    gate = Gate(Settings(store=store))
    found: list[dict[str, Any]] = []

    def keep(entry: dict[str, Any]) -> bool:
        found.append(entry)
        return True

    gate.journal.write = keep  # type: ignore[method-assign, assignment]
    gate.log.descriptor = -1
    Worker.gate = gate
    yield found
    del Worker.gate


def step(ctx: Context, session: Any, what: str, number: int, flag: bool) -> int:
    """One callback as libmilter would make it."""
    if what == "connect":
        return callbacks.connect(ctx, "x", 2, (f"192.0.2.{number}", 25))
    if what == "helo":
        return int(session.helo(ctx, f"h{number}"))
    if what == "mail":
        ctx.macros.pop("{auth_authen}", None)
        if flag:
            ctx.macros["{auth_authen}"] = f"login{number}"
        return int(session.mail(ctx, f"<s{number}@example.org>".encode()))
    if what == "rcpt":
        ctx.macros["{rcpt_mailer}"] = "error" if flag else "local"
        ctx.macros["{rcpt_host}"] = "5.1.1"
        return int(session.rcpt(ctx, f"<r{number}@example.net>".encode()))
    if what == "header":
        return int(session.header(ctx, "From", f" f{number}@example.org".encode()))
    if what == "body":
        return int(session.body(ctx, b"x" * number))
    return int(getattr(session, what)(ctx))


@given(steps=STEPS)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_order(records: list[dict[str, Any]], steps: list[tuple[str, int, bool]]) -> None:
    """One record for each end of a message that began; its sender and recipients are its own."""
    records.clear()
    ctx = Context()
    callbacks.negotiate(ctx, [0x1FF, 0x1FFFFF, 0, 0])
    session = ctx.getpriv()
    want: list[tuple[str, list[str]]] = []
    open_message: tuple[str, list[str]] | None = None
    for what, number, flag in steps:
        answer = step(ctx, session, what, number, flag)
        if what == "mail":
            open_message = f"s{number}@example.org", []
        elif what == "rcpt" and open_message is not None and not flag:
            open_message[1].append(f"r{number}@example.net")
        elif what == "abort":
            open_message = None
        elif what == "eom":
            if open_message is not None:
                want.append(open_message)
            open_message = None
            assert answer in (milter.CONTINUE, milter.TEMPFAIL, milter.REJECT)
        else:
            assert answer in (milter.CONTINUE, milter.NOREPLY)
    callbacks.close(ctx)
    got = [(r["sender"], [x["address"] for x in r["recipients"] if x["accepted"]]) for r in records]
    assert got == want
    assert not Worker.open
    assert not Worker.busy
    assert ctx.private is None
