"""One message told whole: what is stored, what was known then, and what is not known."""

import json

import pytest
from sqlalchemy import Engine

from fix_cli import Run
from fix_store import AT, message, signature
from gatepost_policy import listings, recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.mail.facts import Direction, Identity, IdentityKind, Source
from gatepost_policy.render import why as render
from gatepost_policy.report import why
from gatepost_policy.report.why import Why

TRAP = "trap@home.example"
BAD = "\x1b[2J\u202e"


def told(engine: Engine, settings: Settings, text: str, now: float = AT + 1_000) -> Why:
    with store.reading(engine) as connection:
        found = why.tell(connection, why.find(connection, text), settings, now)
    assert found is not None
    return found


def fill(engine: Engine, settings: Settings) -> None:
    fail = signature("sender.example", result="fail", crypto="fail", reason="body-hash-mismatch")
    recorder.record_batch(
        engine,
        [
            message(1),
            message(2, traps=(TRAP,), to=(), signatures=(fail,), reason=Reason.TRAP,
                    action=Action.REJECT),
            message(3, client="198.51.100.7", sender=f"a{BAD}@other.example"),
            message(4, direction=Direction.SUBMISSION, client=None, sender="", author=None, to=(),
                    reason=Reason.SCRUBBED),
        ],
        settings,
    )  # fmt: skip
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=AT)
        traps.add(connection, "*@old.example", at=AT)
        client = Identity(IdentityKind.PREFIX, "198.51.100.7/32", True)
        listings.punish(connection, client, seconds=100, at=AT + 50, note="")


def test_a_trap_hit_is_told_whole(any_engine: Engine, any_settings: Settings) -> None:
    fill(any_engine, any_settings)
    found = told(any_engine, any_settings, "Q2")
    assert [(b.who, b.messages, b.traps) for b in found.before] == [
        ("192.0.2.7/32", 1, 0), ("sender.example", 1, 0),
    ]  # fmt: skip
    assert found.then is not None and found.now is not None
    assert found.then.decision.reason is Reason.TRAP
    text = render.text(found)
    for words in (
        "fail d=sender.example s=s1 rsa-sha256 relaxed/relaxed 2048 bits: body-hash-mismatch, the "
        "body was changed after signing; proves nothing",
        f"to        {TRAP} (trap, then or later)",
        "decided   reject trap: every recipient is a trap",
        "settings  not known: the configuration of then is not stored",
        "spf       not known: not evaluated",
        "trail     not known",
    ):
        assert words in text, text
    assert text.count("DECIDES") == 2


def test_what_was_known_then_is_not_what_is_known_now(
    any_engine: Engine, any_settings: Settings
) -> None:
    fill(any_engine, any_settings)
    found = told(any_engine, any_settings, "<3@sender.example>", now=AT + 60)
    assert found.then is not None and found.now is not None
    listed = [next(s for s in e.rules if s.rule == "listed") for e in (found.then, found.now)]
    assert "nobody of this message is listed" in listed[0].words
    assert "198.51.100.7/32" in listed[1].words
    assert BAD not in render.text(found)


def test_mail_of_our_own_tells_nothing_of_who_wrote_it(
    any_engine: Engine, any_settings: Settings
) -> None:
    recorder.record_batch(any_engine, [message(1)], any_settings)
    found = told(any_engine, any_settings, "Q1")
    assert found.then is not None  # the counter-proof: inbound mail is judged
    fill(any_engine, any_settings)
    with store.reading(any_engine) as connection:
        ids = why.find(connection, "Q4")
        mine = why.tell(connection, ids, any_settings, AT) if ids else None
    if mine is not None:  # only where submissions are stored at all
        assert mine.then is None and "client" not in render.text(mine)


@pytest.mark.parametrize(
    ("name", "trap"),
    [(TRAP, True), ("TRAP+tag@home.example", True), ("x@old.example", True),
     ("x@home.example", False), ("abuse@old.example", False)],
)  # fmt: skip
def test_traps_of_now(any_engine: Engine, any_settings: Settings, name: str, trap: bool) -> None:
    from gatepost_policy.mail.address import parse

    fill(any_engine, any_settings)
    with store.reading(any_engine) as connection:
        assert why.is_trap(connection, parse(name)) is trap


def test_command(run: Run, engine: Engine, settings: Settings) -> None:
    fill(engine, settings)
    code, out = run("why", "Q2")
    assert code == 0 and out.startswith("Q2\n")
    code, out = run("why", "Q2", "--format", "json")
    got = json.loads(out)
    assert got["message"]["queue_id"] == "Q2" and got["known_then"]["repeat_sender"] is None
    assert [rule["rule"] for rule in got["then"]["rules"]][:3] == [
        "own_user", "trusted_relay", "trap",
    ]  # fmt: skip
    code, out = run("why", "nosuch")
    assert (code, out) == (
        0, "nosuch: nothing is known of it (looked for as a queue id or a Message-ID)\n"
    )  # fmt: skip
    assert run("why", "nosuch", "--format", "json") == (0, "null\n")


def test_command_for_a_bare_client(run: Run, engine: Engine, settings: Settings) -> None:
    fill(engine, settings)
    code, out = run("why", "--client", "198.51.100.9", "--sender", "a@b.example",
                    "--recipient", TRAP)  # fmt: skip
    assert code == 0 and "Listed for it: 198.51.100.9/32 (trap)" in out
    code, out = run("why", "--client", "198.51.100.9", "--sender", "a@b.example", "--recipient",
                    "user@home.example", "--format", "json")  # fmt: skip
    assert json.loads(out)["decision"]["reason"] == "no-bad-signal"


def test_an_imported_message_was_decided_by_nobody_here(
    any_engine: Engine, any_settings: Settings
) -> None:
    """Its log says what the MTA did; `no-bad-signal` is no finding of ours."""
    imported = message(5, traps=(TRAP,), to=(TRAP,), source=Source.POSTFIX_LOG)
    recorder.record_batch(any_engine, [imported], any_settings)
    with store.writing(any_engine) as connection:
        traps.add(connection, TRAP, at=AT)
    words = render.differs(told(any_engine, any_settings, "Q5"))
    assert words.startswith("By its log the MTA said accept; ") and "no-bad-signal" not in words
