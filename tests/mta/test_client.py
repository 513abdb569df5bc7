"""The harness behaves as Postfix did when it was measured: edits, counting, hiding, macros."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from fix_harness import Probe
from gatepost_milter.mta import client
from gatepost_milter.mta.envelope import Envelope
from gatepost_milter.mta.queue_file import HIDE_FIRST, HIDE_PREFIX
from gatepost_milter.mta.wire import ProtocolError
from probe_edits import ONE, OWN, SUBJECT, TABLE, TWO, TWO_

pytestmark = pytest.mark.milter

Probes = Callable[..., Probe]
BOTH = pytest.mark.parametrize("hiding", [HIDE_FIRST, HIDE_PREFIX])
# Two hops that came with the message; "own" in the tests is the MTA's, above them.


def _with(ops: list[list[Any]], head: bytes = TWO, body: bytes = b"body") -> bytes:
    return head + b"X-Probe: " + json.dumps(ops).encode() + b"\n\n" + body


def _names(message: bytes) -> list[str]:
    """`Received:own`, `Received:one`, `Subject` and so on, top to bottom; the probe's left out."""
    head = message.partition(b"\r\n\r\n")[0].replace(b"\r\n\t", b" ").decode("latin-1")
    out = []
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name == "Received":
            value = "own" if "by mx.example.net (Postfix)" in value else value.split()[-1]
            out.append(f"Received:{value}")
        elif name != "X-Probe":
            out.append(name if name == "Subject" else f"{name}:{value}")
    return out


# What a real Postfix 3.7 did: operations at end of message, and the header that came of them.


@BOTH
@pytest.mark.parametrize(("what", "ops", "want"), TABLE, ids=[t[0] for t in TABLE])
def test_edits(
    probes: Probes, hiding: str, what: str, ops: list[list[Any]], want: list[str]
) -> None:
    result = client.send(probes("leadspc").socket, _with(ops), hiding=hiding)
    assert result.action == "accept", result
    assert _names(result.message) == want
    assert _names(result.queued) == [OWN, ONE, TWO_, SUBJECT]


@pytest.mark.parametrize(
    ("hiding", "want"),
    [
        # The first field, whatever it is, is out of reach: our own one becomes number 1.
        (HIDE_FIRST, ["Received:new", ONE, TWO_, SUBJECT]),
        # Its first line is no prefix of our own field: it counts, ours stays hidden.
        (HIDE_PREFIX, [OWN, ONE, TWO_, SUBJECT]),
    ],
)
def test_insert_above_then_delete_number_one(probes: Probes, hiding: str, want: list[str]) -> None:
    ops = [["ins", "Received", 0, " from new"], ["chg", "Received", 1, ""]]
    result = client.send(probes("leadspc").socket, _with(ops), hiding=hiding)
    assert _names(result.message) == want


@BOTH
def test_sweep_above_another_milters_field(probes: Probes, hiding: str) -> None:
    """A milter before us put a Received on top: one more number sweeps that one too."""
    ops: list[list[Any]] = [["ins", "Received", 0, " from other"]]
    ops += [["ins", "Received", 0, "\n\tby gate"]]
    ops += [["chg", "Received", n, ""] for n in (4, 3, 2, 1)]
    result = client.send(probes("leadspc").socket, _with(ops), hiding=hiding)
    assert _names(result.message) == ["Received:gate", SUBJECT]


def test_edits_are_reported_as_asked(probes: Probes) -> None:
    ops: list[list[Any]] = [["ins", "X-A", 0, " a"], ["chg", "Received", 2, ""]]
    ops.append(["add", "X-B", " b"])
    result = client.send(probes("leadspc").socket, _with(ops))
    got = [(e.op, e.name, e.index, e.value) for e in result.edits]
    assert got == [("insert", "X-A", 0, " a"), ("delete", "Received", 2, None),
                   ("insert", "X-B", 5, " b")]  # fmt: skip


def test_line_feeds_in_a_value_become_folds(probes: Probes) -> None:
    ops = [["add", "X-A", " a\n\nEvil: b"]]
    result = client.send(probes("leadspc").socket, _with(ops))
    assert b"\r\nX-A: a\r\n\t\r\n\tEvil: b\r\n" in result.message


def test_leading_space(probes: Probes) -> None:
    """With the flag the value comes as it is; without it one space is eaten, and put back."""
    for flags, seen, written in ((("leadspc",), "  x", b"X-A:a"), ((), " x", b"X-A: a")):
        probe = probes(*flags)
        result = client.send(probe.socket, _with([["add", "X-A", "a"]]))
        values = {e["name"]: e["value"] for e in probe.events() if e["event"] == "header"}
        assert values["Subject"] == seen
        assert written + b"\r\n" in result.message


def test_negotiation_and_macros_of_each_stage(probes: Probes) -> None:
    probe = probes("leadspc")
    client.send(
        probe.socket, _with([]), client="2001:db8::7", client_name="mail.example.org",
        login="alice", daemon_name="ORIGINATING", recipients=["a@b.example", "c@d.example"],
        queue_id="Q1", macros={"{x}": "1"},
    )  # fmt: skip
    events = {e["event"]: e for e in probe.events()}
    assert (events["negotiate"]["actions"], events["negotiate"]["steps"]) == (0x1FF, 0x1FFFFF)
    connect = events["connect"]
    assert connect["host"] == "mail.example.org"
    assert connect["address"][:2] == ["2001:db8::7", 40000]
    assert connect["macros"] == {
        "j": "mx.example.net", "v": "Postfix 3.7.11", "_": "mail.example.org [2001:db8::7]",
        "{daemon_name}": "ORIGINATING",
    }  # fmt: skip
    assert events["mail"]["args"] == ["<sender@example.org>"]
    assert events["mail"]["macros"] == {
        "{auth_authen}": "alice", "{mail_addr}": "sender@example.org", "{x}": "1"
    }  # fmt: skip
    assert events["eom"]["macros"] == {"i": "Q1"}


def test_queue_id_comes_with_the_first_good_recipient(probes: Probes) -> None:
    probe = probes("leadspc")
    result = client.send(
        probe.socket, _with([]), recipients=["refuse@x.example", "a@x.example", "b@x.example"],
        queue_id="Q2",
    )  # fmt: skip
    seen = [e["macros"].get("i") for e in probe.events() if e["event"] == "rcpt"]
    assert seen == [None, None, "Q2"]
    assert result.accepted_recipients == ("a@x.example", "b@x.example")
    assert [r[:3] for r in result.replies] == ["550", "250", "250"]


CLIENTS: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("unverified", {"client": "192.0.2.9"}, {"host": "[192.0.2.9]", "family": 2}, []),
    ("IPv4-mapped is IPv4", {"client": "::ffff:192.0.2.9"}, {"host": "[192.0.2.9]", "family": 2},
     []),
    ("unix socket", {"client": None}, {"host": "localhost", "family": 0, "address": None}, []),
    ("sendmail(1)", {"local": True, "sender": "a@x.example"},
     {"host": "localhost", "family": 2, "address": ["127.0.0.1", 0]}, ["a@x.example"]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "given", "want", "args"), CLIENTS, ids=[c[0] for c in CLIENTS])
def test_clients(
    probes: Probes, what: str, given: dict[str, Any], want: dict[str, Any], args: list[str]
) -> None:
    probe = probes("leadspc")
    client.send(probe.socket, _with([]), **given)
    events = {e["event"]: e for e in probe.events()}
    got = {key: events["connect"][key] for key in want}
    assert got == want
    if args:
        assert events["mail"]["args"] == args
        assert "helo" not in events and "data" not in events


def test_rejected_recipients_are_shown_to_who_asks(probes: Probes) -> None:
    for flags, shown in (((), 1), (("rejected",), 2)):
        probe = probes(*flags)
        result = client.send(
            probe.socket, _with([]), recipients=["a@x.example"], rejected=("gone@x.example",)
        )
        seen = [e for e in probe.events() if e["event"] == "rcpt"]
        assert len(seen) == shown
        assert result.replies[0].startswith("550 5.1.1")
    assert seen[0]["macros"]["{rcpt_mailer}"] == "error"


def test_no_reply_steps_and_skip(probes: Probes) -> None:
    body = b"x" * 200_000
    whole, skipped = probes("leadspc", "noreply"), probes("leadspc", "skip")
    sizes = []
    for probe in (whole, skipped):
        result = client.send(probe.socket, _with([["add", "X-A", " a"]], body=body))
        assert result.message.endswith(body + b"\r\n")
        eom = [e for e in probe.events() if e["event"] == "eom"][0]
        sizes.append((eom["size"], eom["chunks"][0]))
    assert sizes == [(200_002, 65535), (65535, 65535)]


REPLIES: list[tuple[list[list[Any]], dict[str, Any], str, str, str]] = [
    ([["reply", "550", "5.7.1", "no %% thanks"]], {}, "reject", "end", "550 5.7.1 no % thanks"),
    ([["reply", "451", "4.7.1", "later"]], {}, "tempfail", "end", "451 4.7.1 later"),
    ([["discard"]], {}, "discard", "end", "250 2.0.0 Ok: queued as Q3"),
    ([["accept"]], {}, "accept", "end", "250 2.0.0 Ok: queued as Q3"),
    ([], {"sender": "tempfail@x.example"}, "tempfail", "mail",
     "451 4.7.1 Service unavailable - try again later"),
    ([], {"recipients": ["a@x.example", "discard@x.example"]}, "discard", "rcpt",
     "250 2.0.0 Ok: queued as Q3"),
    ([], {"recipients": ["refuse@x.example"]}, "reject", "rcpt", "550 5.7.1 Command rejected"),
]  # fmt: skip


@pytest.mark.parametrize(("ops", "given", "action", "stage", "reply"), REPLIES)
def test_replies(
    probes: Probes, ops: list[list[Any]], given: dict[str, Any], action: str, stage: str, reply: str
) -> None:
    result = client.send(probes("leadspc").socket, _with(ops), queue_id="Q3", **given)
    assert (result.action, result.stage, result.reply) == (action, stage, reply)


def test_delrcpt(probes: Probes) -> None:
    result = client.send(
        probes("leadspc").socket, _with([["delrcpt", "<a@x.example>"]]),
        recipients=["a@x.example", "b@x.example"],
    )  # fmt: skip
    assert result.accepted_recipients == ("b@x.example",)


def test_long_fields_are_cut_and_nul_ends_a_field(probes: Probes) -> None:
    probe = probes("leadspc")
    head = b"X-Long: " + b"a" * 70_000 + b"\n\tmore\nX-Nul: a\0b\n\tc\n"
    result = client.send(probe.socket, _with([], head=head))
    values = {e["name"]: e["value"] for e in probe.events() if e["event"] == "header"}
    assert len("X-Long:" + values["X-Long"]) == 60_000
    assert values["X-Nul"] == " a"
    assert b"\r\nX-Nul: a\r\n" in result.message


def test_a_session_carries_several_messages(probes: Probes) -> None:
    probe = probes("leadspc")
    with client.Session(probe.socket, Envelope(sender="one@x.example")) as session:
        first = session.send(_with([["reply", "550", "5.7.1", "no"]]))
        assert session.mail(Envelope(sender="two@x.example")) is None
        session.rset()
        third = session.send(_with([]), Envelope(sender="three@x.example"))
    events = probe.events()
    assert [e["event"] for e in events].count("connect") == 1
    senders = [e["args"][0] for e in events if e["event"] == "mail"]
    assert senders == ["<one@x.example>", "<two@x.example>", "<three@x.example>"]
    assert (first.action, third.action) == ("reject", "accept")


def test_a_milter_that_is_not_there(tmp_path: Any) -> None:
    with pytest.raises(ProtocolError, match="No such file"):
        client.send(f"unix:{tmp_path}/none.sock", b"Subject: x\n\n")
