"""Callbacks in any order: no exception gets out, and no message gets into another's record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import milter
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost_milter.engine import libmilter
from gatepost_milter.filter.context import Context
from gatepost_milter.filter.gate import Gate
from gatepost_policy.config.settings import Settings, Store
from milter_ctx import Ctx

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


@dataclass
class Worker:
    """A worker's context, and what it would journal."""

    context: Context
    records: list[dict[str, Any]]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """What libmilter's callbacks find."""
    store = Store(url=f"sqlite:///{tmp_path}/x.sqlite", submission="full")
    gate = Gate(Settings(store=store))
    found: list[dict[str, Any]] = []

    def keep(entry: dict[str, Any]) -> bool:
        found.append(entry)
        return True

    gate.journal.write = keep  # type: ignore[method-assign, assignment]
    gate.log.descriptor = -1
    context = Context(gate)
    libmilter.attach(context)
    return Worker(context, found)


def step(ctx: Ctx, what: str, number: int, flag: bool) -> int:
    """One callback as libmilter would make it."""
    if what == "connect":
        return libmilter.connect(ctx, "x", 2, (f"192.0.2.{number}", 25))
    if what == "helo":
        return libmilter.helo(ctx, f"h{number}")
    if what == "mail":
        ctx.macros.pop("{auth_authen}", None)
        if flag:
            ctx.macros["{auth_authen}"] = f"login{number}"
        return libmilter.envfrom(ctx, f"<s{number}@example.org>".encode())
    if what == "rcpt":
        ctx.macros["{rcpt_mailer}"] = "error" if flag else "local"
        ctx.macros["{rcpt_host}"] = "5.1.1"
        return libmilter.envrcpt(ctx, f"<r{number}@example.net>".encode())
    if what == "header":
        return libmilter.header(ctx, "From", f" f{number}@example.org".encode())
    if what == "body":
        return libmilter.body(ctx, b"x" * number)
    return int(getattr(libmilter, what)(ctx))


@given(steps=STEPS)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_order(worker: Worker, steps: list[tuple[str, int, bool]]) -> None:
    """One record for each end of a message that began; its sender and recipients are its own."""
    worker.records.clear()
    ctx = Ctx()
    libmilter.negotiate(ctx, [0x1FF, 0x1FFFFF, 0, 0])
    want: list[tuple[str, list[str]]] = []
    open_message: tuple[str, list[str]] | None = None
    for what, number, flag in steps:
        answer = step(ctx, what, number, flag)
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
    libmilter.close(ctx)
    got = [
        (r["sender"], [x["address"] for x in r["recipients"] if x["accepted"]])
        for r in worker.records
    ]
    assert got == want
    assert not worker.context.open
    assert not worker.context.busy
    assert ctx.private is None


FORGED = (b" mx.example.net; dkim=pass header.d=bank.example", b' "mx".example.net; dkim=pass')


def test_an_exception_leaves_nothing_forged(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that passes without a verdict loses what it says in our name."""
    monkeypatch.setattr(worker.context.gate, "begin", lambda *_: 1 / 0)
    for forged in (True, False):
        ctx = Ctx()
        libmilter.negotiate(ctx, [0x1FF, 0x1FFFFF, 0, 0])
        ctx.macros |= {"j": "mx.example.net", "i": "4ABC"}
        step(ctx, "connect", 1, False)
        step(ctx, "mail", 1, False)
        step(ctx, "rcpt", 1, False)
        libmilter.header(ctx, "Authentication-Results", b" other.example; dkim=pass")
        for value in FORGED if forged else ():
            libmilter.header(ctx, "Authentication-Results", value)
        libmilter.body(ctx, b"x")
        assert libmilter.eom(ctx) == milter.CONTINUE
        assert worker.records[-1]["reason"] == "internal-error"
        want = [(3, ""), (2, ""), (0, " mx.example.net;\n\tnone")] if forged else []
        assert ctx.edits == [("Authentication-Results", *edit) for edit in want]
        libmilter.close(ctx)
