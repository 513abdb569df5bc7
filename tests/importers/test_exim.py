"""Exim's log lines, form by form: messages, refusals, DKIM outcomes, and whose mail it is."""

from datetime import UTC
from ipaddress import ip_network
from typing import Any

import pytest

from gatepost_policy.config.settings import Submission
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import to_json
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.exim_dkim import read_dkim
from gatepost_policy.journal import record
from gatepost_policy.journal.record import Seen
from gatepost_policy.mail.facts import Signature

NOW = 1_800_000_000.0
T = "2026-11-20 10:00:00 "
ID = "1QFOdo-0001zq-E9"
FROM = f"{T}{ID} <= a@b.example H=mx.b.example"


def _import(*lines: str, ours: Submission | None = None) -> tuple[list[Seen], Exim]:
    exim = Exim(ours)
    clock = Clock(UTC, NOW)
    seen = [*exim.lines(list(lines), clock), *exim.finish()]
    return seen, exim


def _facts(seen: Seen) -> dict[str, Any]:
    data = to_json(seen)
    return {
        "kind": data["kind"],
        "client": data.get("client"),
        "sender": data.get("sender"),
        "to": [(r["address"], r["accepted"]) for r in data.get("recipients", ())],
        "action": data["action"],
    }


def test_a_message() -> None:
    (seen,), exim = _import(
        f"{T}{ID} DKIM: d=b.example s=s1 c=relaxed/simple a=rsa-sha256 b=2048 t=1 x=2 l=77"
        " [verification succeeded]",
        f"{FROM} (helo.b.example) [2001:db8::7]:4711 I=[192.0.2.1]:25 P=esmtps X=TLS1.3:x:256"
        ' CV=no S=2345 id=x@b.example T="a H=no [192.0.2.99] id=no" from <a@b.example>',
        f"{T}{ID} => peter <trap@home.example> R=localuser T=local_delivery",
        f"{T}{ID} -> second@home.example R=dnslookup T=remote_smtp H=x [192.0.2.5]",
        f"{T}{ID} ** third@home.example <orig@home.example>: no such user",
        f"{T}{ID} Completed",
    )
    facts = seen.facts
    assert (facts.at, facts.queue_id, facts.size) == (1795168800.0, ID, 2345)
    assert facts.message_id == "x@b.example"
    assert str(facts.client.address) == "2001:db8::7"
    assert (facts.client.port, facts.client.name) == (4711, "mx.b.example")
    assert facts.client.helo == "helo.b.example"
    got = [r.address.raw for r in facts.recipients]
    assert got == ["trap@home.example", "second@home.example", "orig@home.example"]
    assert facts.signatures == (
        Signature(
            domain="b.example", selector="s1", algorithm="rsa-sha256",
            canonicalization="relaxed/simple", key_bits=2048, body_limit=77,
            crypto="pass", result="pass",
        ),
    )  # fmt: skip
    assert exim.tally.kinds == {"dkim": 1, "delivery": 3, "inbound": 1}


HOSTS: list[tuple[str, str | None, str | None, str | None]] = [
    ("H=mx.b.example [192.0.2.7]", "192.0.2.7", "mx.b.example", None),
    ("H=mx.b.example (helo) [192.0.2.7]:25", "192.0.2.7", "mx.b.example", "helo"),
    ("H=(helo) [192.0.2.7]", "192.0.2.7", None, "helo"),
    ("H=([10.0.0.1]) [192.0.2.7]", "192.0.2.7", None, "[10.0.0.1]"),
    ("H=[192.0.2.7]", "192.0.2.7", None, None),
    ("H=[::ffff:192.0.2.7]", "192.0.2.7", None, None),
    ("H=mx [2001:db8::1]", "2001:db8::1", "mx", None),
    ("H=(a)b [10.0.0.1]) [192.0.2.7]:25 I=[192.0.2.1]:25", "192.0.2.7", None, "a)b [10.0.0.1]"),
]


@pytest.mark.parametrize(("host", "address", "name", "helo"), HOSTS)
def test_hosts(host: str, address: str, name: str | None, helo: str | None) -> None:
    (seen,), _ = _import(f"{T}{ID} <= a@b.example {host} P=smtp S=1 for x@home.example")
    client = seen.facts.client
    assert (str(client.address), client.name, client.helo) == (address, name, helo)


# The prefix of a line in all its forms; the time is 10:00 UTC on 20 November 2026.
PREFIXES = [
    "2026-11-20 10:00:00 ",
    "2026-11-20 10:00:00.250 ",
    "2026-11-20 11:00:00 +0100 ",
    "2026-11-20 10:00:00 [4711] ",
    "Nov 20 10:00:00 mx exim[4711]: ",
    "<22>Nov 20 10:00:00 mx exim[4711]: ",
    "2026-11-20T11:00:00.5+01:00 mx exim4[4711]: ",
    "Nov 20 10:00:01 mx exim[4711]: 2026-11-20 10:00:00 ",
    "mx.home.example exim[4711]: 2026-11-20 10:00:00 ",
    "2026-11-20 10:00:00 mx exim[4711]: ",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("queue_id", [ID, "1qFOdo-000000001zq-E9ab"])
def test_prefixes(prefix: str, queue_id: str) -> None:
    (seen,), exim = _import(
        f"{prefix}{queue_id} <= a@b.example H=mx [192.0.2.7] P=smtp S=1",
        f"{prefix}{queue_id} => x@home.example R=r T=t",
        f"{prefix}{queue_id} Completed",
    )
    assert int(seen.facts.at) == 1795168800
    assert seen.facts.queue_id == queue_id
    assert not exim.tally.kinds["unparsed"]


OURS = Submission(networks=(ip_network("192.0.2.0/24"),))
# Whose mail it is, by its arrival line.
WHOSE: list[tuple[str, str, Submission | None]] = [
    ("H=laptop [203.0.113.9] P=esmtpsa A=plain:alice S=1", "submission", None),
    ("H=laptop [203.0.113.9] P=esmtpa S=1", "submission", None),
    ("H=laptop [203.0.113.9] P=esmtps A=login:alice S=1", "submission", None),
    ("H=printer [192.0.2.9] P=esmtp S=1", "submission", OURS),
    ("U=alice P=local S=1", "local", None),
    ("U=alice P=local-esmtp S=1", "local", None),
]


@pytest.mark.parametrize(("rest", "direction", "ours"), WHOSE)
def test_our_own_mail_is_a_number(rest: str, direction: str, ours: Submission | None) -> None:
    (seen,), exim = _import(
        f"{T}{ID} <= alice@home.example {rest} id=laptop.local for b@friend.example",
        f"{T}{ID} => b@friend.example R=r T=t",
        f"{T}{ID} Completed",
        ours=ours,
    )
    data = to_json(seen)
    assert data == {
        "v": record.VERSION, "kind": "count", "at": 1795168800.0, "direction": direction,
        "family": "unix" if direction == "local" else "ipv4", "action": "accept",
        "reason": "no-bad-signal", "key": f"exim:{ID}:1",
    }  # fmt: skip
    assert exim.tally.kinds[direction] == 1


def test_a_helo_cannot_make_a_stranger_ours() -> None:
    (seen,), _ = _import(f"{T}{ID} <= a@b.example H=(x)y) nonsense P=smtp S=1 for x@home.example")
    assert (seen.facts.direction, seen.facts.client.family) == ("inbound", "unknown")


def test_a_quoted_sender() -> None:
    (seen,), _ = _import(
        f'{T}{ID} <= "a \\" H=x"@b.example H=mx [192.0.2.7] P=smtp S=1 for x@home.example'
    )
    assert seen.facts.sender.raw == '"a \\" H=x"@b.example'
    assert str(seen.facts.client.address) == "192.0.2.7"


def test_a_bounce_is_local() -> None:
    (seen,), _ = _import(
        f"{T}{ID} <= <> R=1QFOdo-0001zq-E8 U=exim P=local S=99", f"{T}{ID} Completed"
    )
    assert seen.facts.direction == "local"


REFUSED: list[tuple[str, dict[str, Any]]] = [
    (
        "H=mx.b.example (helo) [192.0.2.7]:99 I=[10.0.0.1]:25 F=<a@b.example> rejected RCPT"
        " <trap@home.example>: Unrouteable address",
        {"kind": "rcpt", "sender": "a@b.example", "to": [("trap@home.example", False)],
         "action": "reject"},
    ),
    (
        "[10099] H=(x) [192.0.2.7]:3755 F=a@b.example rejected RCPT x@home.example: relay not",
        {"kind": "rcpt", "sender": "a@b.example", "to": [("x@home.example", False)],
         "action": "reject"},
    ),
    (
        "H=(x) [2001:db8::1] F=<> temporarily rejected RCPT <x@home.example>: greylisted",
        {"kind": "rcpt", "sender": "", "to": [("x@home.example", False)], "action": "tempfail"},
    ),
    (
        f"{ID} H=(x) [192.0.2.7] F=<a@b.example> rejected after DATA: spam",
        {"kind": "message", "sender": "a@b.example", "to": [], "action": "reject"},
    ),
    (
        "H=(x) [192.0.2.7] F=<a@b.example> RCPT <trap@home.example>: discarded by RCPT ACL: quiet",
        {"kind": "rcpt", "sender": "a@b.example", "to": [("trap@home.example", False)],
         "action": "discard"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "want"), REFUSED)
def test_refused(text: str, want: dict[str, Any]) -> None:
    (seen,), _ = _import(T + text)
    got = _facts(seen)
    assert {key: got[key] for key in want} == want
    assert seen.decision.reason == "mta-refused"


def test_a_refused_message_keeps_its_signatures() -> None:
    (seen,), exim = _import(
        f"{T}{ID} DKIM: d=b.example s=s1 [verification failed - body hash mismatch]",
        f"{T}{ID} H=(x) [192.0.2.7] F=<a@b.example> rejected after DATA: spam",
        "Envelope-to: <x@home.example>",
        "P Received: from x",
        "------------------------------",
        "no line of Exim's",
    )
    assert [s.result for s in seen.facts.signatures] == ["fail"]
    assert exim.tally.kinds["unparsed"] == 1 and exim.tally.samples == ["no line of Exim's"]


def test_a_refused_submission_is_a_number() -> None:
    (seen,), _ = _import(
        f"{T}H=laptop [203.0.113.9] A=plain:alice F=<alice@home.example> rejected RCPT <x@y>: no"
    )
    text = str(to_json(seen))
    assert to_json(seen)["kind"] == "count"
    assert "alice" not in text and "203.0.113.9" not in text


def test_refused_submissions_have_keys_without_their_data() -> None:
    """Two in a second are two; the copy in the reject log is neither."""
    line = f"{T}H=laptop [203.0.113.9] A=plain:alice F=<a@home.example> rejected RCPT <x@y>: no"
    exim = Exim()
    main, reject = Clock(UTC, NOW), Clock(UTC, NOW)
    keys = [s.key for clock in (main, reject) for s in exim.lines([line, line], clock)]
    assert keys[:2] == keys[2:] == [f"exim:refused:1795168800.0:{n}" for n in (1, 2)]


DKIM: list[tuple[str, tuple[str | None, str, str | None] | None]] = [
    ("[verification succeeded]", ("pass", "pass", None)),
    ("[verified]", ("pass", "pass", None)),
    ("[succeeded]", ("pass", "pass", None)),
    ("[verification failed - body hash mismatch (body probably modified in transit)]",
     ("fail", "fail", "body-hash-mismatch")),
    ("[verification failed - signature did not verify (headers probably modified in transit)]",
     ("fail", "fail", "bad-signature")),
    ("[verification failed - unspecified reason]", ("fail", "fail", "bad-signature")),
    ("[verification failed]", ("fail", "fail", "bad-signature")),
    ("[failed]", ("fail", "fail", "bad-signature")),
    ("[verification failed - signature invalid (key too short)]", (None, "policy", "weak-key")),
    ("[failed key import]", (None, "permerror", "bad-key")),
    ("[invalid - public key record (currently?) unavailable]",
     (None, "temperror", "key-unavailable")),
    ("[invalid - syntax error in public key record]", (None, "permerror", "bad-key-record")),
    ("[invalid - signature tag missing or invalid]", (None, "permerror", "syntax")),
    ("[invalid - unsupported DKIM version]", (None, "permerror", "version")),
    ("[invalid - something new]", (None, "permerror", "unspecified")),
    ("[invalid - unspecified problem]", (None, "permerror", "unspecified")),
    ("[fail - hash too weak]", (None, "policy", "weak-hash")),
    ("[something quite new]", (None, "neutral", None)),
    ("no brackets", None),
]  # fmt: skip


@pytest.mark.parametrize(("words", "want"), DKIM)
def test_dkim_outcomes(words: str, want: tuple[str | None, str, str | None] | None) -> None:
    got = read_dkim(f"DKIM: d=B.example s=s1 c=relaxed/relaxed a=rsa-sha1 {words}")
    assert want == (None if got is None else (got.crypto, got.result, got.reason))
    if got is not None:
        assert (got.domain, got.selector, got.algorithm) == ("b.example", "s1", "rsa-sha1")


def test_lines_about_signing_are_none() -> None:
    assert read_dkim("DKIM: signing failed: LONG_LINE") is None


@pytest.mark.parametrize(
    "tags",
    [
        "s=s1 c=relaxed/relaxed a=rsa-sha256 b=2048 i=@evil.example d=bank.example s=x t=1",
        "s=s1 d=bank.example c=relaxed/relaxed a=rsa-sha256 b=2048",
        "s=x c=relaxed/relaxed a=rsa-sha256 b=2048 i=x d=bank.example",
    ],
)
def test_a_signer_names_itself_alone(tags: str) -> None:
    """i= is quoted-printable and a selector may hold a blank: what stands in them is no tag."""
    got = read_dkim(f"DKIM: d=evil.example {tags} [verification succeeded]")
    assert got is not None and (got.domain, got.result) == ("evil.example", "pass")


def test_dkim_of_the_arrival_line() -> None:
    """It names who passed; a DKIM line about the same signer has said it already."""
    (seen,), _ = _import(
        f"{T}{ID} DKIM: d=b.example s=s1 [verification succeeded]",
        f"{T}{ID} <= a@b.example H=mx [192.0.2.7] P=smtp S=1 DKIM=b.example,c.example"
        " for x@y.example",
    )
    got = [(s.domain, s.selector, s.result) for s in seen.facts.signatures]
    assert got == [("b.example", "s1", "pass"), ("c.example", None, "pass")]


def test_a_log_that_begins_and_ends_in_the_middle() -> None:
    """Without its arrival a message is not told; one that may still go on neither."""
    seen, exim = _import(
        f"{T}1QFOdo-0001zq-E1 => x@home.example R=r T=t",
        f"{T}1QFOdo-0001zq-E1 Completed",
        f"{T}1QFOdo-0001zq-E2 DKIM: d=b.example s=s1 [verification succeeded]",
        f"{T}{ID} <= a@b.example H=mx [192.0.2.7] P=smtp S=1",
    )
    assert seen == []
    assert exim.tally.kinds["unfinished"] == 1
    assert exim.tally.kinds["without arrival"] == 1


def test_recipients_that_an_acl_discarded() -> None:
    (seen,), _ = _import(
        f"{FROM} [192.0.2.7] P=smtp S=1",
        f"{T}{ID} => blackhole (RCPT ACL discarded recipients)",
        f"{T}{ID} Completed",
    )
    assert seen.facts.recipients == ()


def test_a_cut_through_delivery() -> None:
    """Logged before the arrival, and the recipient counts all the same."""
    (seen,), _ = _import(
        f"{T}{ID} >> x@home.example R=r T=t H=inner [192.0.2.5]",
        f"{FROM} [192.0.2.7] P=smtp S=1",
        f"{T}{ID} Completed",
    )
    assert [r.address.raw for r in seen.facts.recipients] == ["x@home.example"]


def test_a_deferred_message_is_told_with_its_recipients() -> None:
    (seen,), _ = _import(
        f"{FROM} [192.0.2.7] P=smtp S=1",
        f"{T}{ID} == x@home.example R=r T=t defer (-1): Connection refused",
    )
    assert [r.address.raw for r in seen.facts.recipients] == ["x@home.example"]


@pytest.mark.parametrize("listed", ["", " for x@home.example y@home.example"])
def test_what_nobody_got_was_not_delivered(listed: str) -> None:
    """Whether or not the arrival names the recipients (+received_recipients)."""

    def told(*ends: str) -> Seen:
        lines = [f"{T}{ID} {end} R=r T=t: 550 no => such user" for end in ends]
        arrival = f"{FROM} [192.0.2.7] P=smtp S=1{listed}"
        (seen,), _ = _import(arrival, *lines, f"{T}{ID} Completed")
        return seen

    lost = told("== x@home.example", "** x@home.example", "** y@home.example")
    assert lost.decision.action == "reject"
    assert [r.accepted for r in lost.facts.recipients] == [False, False]
    half = told("** x@home.example", "=> y@home.example")
    assert half.decision.action == "accept"
    assert {r.address.raw: r.accepted for r in half.facts.recipients} == {
        "x@home.example": False, "y@home.example": True,
    }  # fmt: skip
    both = told("** p <x@home.example>", "=> q <x@home.example>", "=> y@home.example")
    assert [r.accepted for r in both.facts.recipients] == [True, True]


def test_an_id_that_comes_again_is_another_message() -> None:
    seen, _ = _import(
        f"{FROM} [192.0.2.7] P=smtp S=1 for x@home.example",
        f"{FROM} [192.0.2.7] P=smtp S=2 for y@home.example",
    )
    assert [s.facts.size for s in seen] == [1, 2]
    assert len({s.key for s in seen}) == 2
