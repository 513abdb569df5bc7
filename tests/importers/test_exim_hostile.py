"""What a client may choose changes its own field of a line and no other: Exim's rules as a model.

`Line` writes lines as Exim 4.96 does (receive.c, smtp_in.c): which fields it quotes, which it
does not, and in which order. Whatever stands in HELO, MAIL, RCPT, Message-ID, subject,
certificate and login, envelope and direction come out as they were.
"""

from dataclasses import dataclass
from datetime import UTC

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gatepost_policy.importers import open_state
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import internal
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.exim_delivery import read_recipient
from gatepost_policy.importers.exim_fields import (
    read_arrival,
    read_rejection,
    walked_arrival,
    walked_rejection,
)

pytestmark = pytest.mark.slow

# Words that mean something elsewhere in a line, to be found in every place a client can fill.
BAIT = (
    "A=plain:alice", "DKIM=bank.example", "P=esmtpsa", "H=mx [203.0.113.9]", "S=1", "id=x@y",
    "F=<ceo@bank.example>", "rejected RCPT <ceo@bank.example>", "for ceo@bank.example", "U=root",
    'T="', "R=r T=t", "<= a@b", "Completed", ") [203.0.113.9] P=esmtpsa", "discarded by DATA ACL",
    "(", ")", "<", ">", "x",
)  # fmt: skip
BAITED = st.lists(st.sampled_from(BAIT), min_size=1, max_size=4).map(" ".join)
ATOM = st.sampled_from(["a", "b.c", "x=y", "sasl_username=x", "+tag", "A=plain:x"])


def quoted(text: str) -> str:
    """A quoted string of RFC 5321: what Exim keeps as it came."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


LOCAL = st.one_of(ATOM, BAITED.map(quoted))
ADDRESS = st.builds(
    "{}@{}".format, LOCAL, st.sampled_from(["spam.example", "home.example", "[192.0.2.1]"])
)
HELO = st.one_of(st.just("h.example"), st.sampled_from(BAIT).map(lambda t: t.replace(" ", "_")))
CERTIFICATE = st.one_of(st.none(), BAITED, BAITED.map('CN=x" {}'.format))
IDENT = st.one_of(st.none(), st.just("nobody"), BAITED)


@dataclass(frozen=True)
class Line:
    """What Exim knows, of which the client chose all but `ip`, `logged_in` and `signer`."""

    sender: str
    helo: str
    ident: str | None
    certificate: str | None
    message_id: str
    subject: str
    recipient: str
    logged_in: bool
    signer: str | None
    login: str = "alice"
    flags: str = "K"

    def host(self) -> str:
        ident = "" if self.ident is None else f" U={self.ident}"
        return f"H=out.spam.example ({self.helo}) [192.0.2.50]:4711{ident}"

    def tls(self) -> str:
        dn = "" if self.certificate is None else f' CV=no DN="{self.certificate}"'
        return f" X=TLS1.3:TLS_AES_256_GCM_SHA384:256{dn}"

    def arrival(self) -> str:
        protocol = "esmtpsa" if self.logged_in else "esmtps"
        # A login with blanks behind an ident that was looked up cannot be told from the ident.
        name = self.login if self.ident is None else "alice"
        login = f" A=plain:{name}" if self.logged_in else ""
        signed = "" if self.signer is None else f" DKIM={self.signer}"
        return (
            f"<= {self.sender} {self.host()} P={protocol}{self.tls()}{login} {self.flags}"
            f" S=369{signed}"
            f" id={self.message_id} T={quoted(self.subject)} for {self.recipient} bob@home.example"
        )

    def rejection(self) -> str:
        name = self.login if self.ident is None and self.certificate is None else "alice"
        login = f" A=plain:{name}" if self.logged_in else ""
        return (
            f"{self.host()}{self.tls()} F=<{self.sender}>{login} rejected RCPT"
            f" <{self.recipient}>: no such user"
        )


LINES = st.builds(
    Line, ADDRESS, HELO, IDENT, CERTIFICATE, ADDRESS, BAITED, ADDRESS, st.booleans(),
    st.one_of(st.none(), st.just("spam.example")), st.one_of(st.just("alice"), BAITED),
    st.sampled_from(["K", "L.- K", "PRDR TFO*", "L"]),
)  # fmt: skip


@given(LINES)
@examples(max_examples=500)
def test_an_arrival_says_what_exim_said(line: Line) -> None:
    got = read_arrival(line.arrival())
    assert got.sender == line.sender
    assert str(got.client.address) == "192.0.2.50"
    assert got.protocol == ("esmtpsa" if line.logged_in else "esmtps")
    assert got.authenticated is line.logged_in
    assert got.recipients == (line.recipient, "bob@home.example")
    assert got.signers in ("", line.signer or "")
    assert got.size in (369, None)
    assert got.message_id in (line.message_id, None)


# Each end of the certificate can be reached from each end of the ident: 64 tries were too few.
@example(
    Line(
        "a@spam.example",
        "h.example",
        " ".join(["A=plain:alice"] * 4),
        'CN=x" ' + " ".join(["A=plain:alice"] * 3),
        *("i@x", "", "b@x", False, None),
    )
)
@given(LINES)
@examples(max_examples=500)
def test_a_rejection_says_what_exim_said(line: Line) -> None:
    got = read_rejection(line.rejection())
    assert got is not None
    assert str(got.client.address) == "192.0.2.50"
    if line.ident is None and line.certificate is None and line.logged_in:
        assert got.authenticated  # so it is only counted, whatever stands in the login
        return
    # An ident and a certificate may hold whole rejections: where another one stands in them or
    # behind them, nothing tells which is Exim's, and what differs is not known.
    told = f"{line.ident} {line.certificate} {line.sender} {line.recipient}"
    bait = any(words in told for words in ("rejected RCPT", "discarded by", "F=<"))
    loose = bait and (line.ident is not None or line.certificate is not None)
    assert got.sender == line.sender or (loose and got.sender == "")
    assert got.recipient == line.recipient or (loose and got.recipient is None)
    assert got.stage == "RCPT" or (loose and got.stage == "DATA")
    assert not got.discarded
    if line.certificate is None and line.ident is None:
        assert got.authenticated is line.logged_in
    assert not got.authenticated or line.logged_in


@pytest.mark.parametrize(
    "before",
    [
        "U=x F=<ceo@bank.example> rejected AUTH <a@b.example>",
        'DN="x" F=<ceo@bank.example> discarded by DATA ACL"',
        "U=nobody",
    ],
)
def test_words_of_the_client_hide_no_rejection(before: str) -> None:
    """The client and the time stay in the history, and nobody else is named."""
    recipient = '"F=<ceo@bank.example> rejected RCPT <x>"@home.example'
    text = f"H=h [192.0.2.50] {before} F=<a@spam.example> rejected RCPT <{recipient}>: no"
    (seen,) = Exim().lines([f"2026-09-01 09:00:00 {text}"], Clock(UTC, 1_790_000_000.0))
    assert str(seen.facts.client.address) == "192.0.2.50"
    assert seen.facts.sender.raw in ("", "a@spam.example")
    assert [r.address.raw for r in seen.facts.recipients] in ([], [recipient])
    assert seen.decision.action == "reject"


PLAIN = st.builds(
    Line, ATOM.map("{}@spam.example".format), HELO, st.none(), st.none(),
    ATOM.map("{}@spam.example".format), st.just("x"), ATOM.map("{}@home.example".format),
    st.booleans(), st.one_of(st.none(), st.just("spam.example")),
)  # fmt: skip


@given(st.one_of(PLAIN, LINES))
@examples(max_examples=500)
def test_the_short_way_reads_what_the_walk_reads(line: Line) -> None:
    for text in (
        line.arrival(),
        line.arrival().replace(' T="x"', "").replace(" A=plain:alice", ""),
    ):
        assert read_arrival(text) == walked_arrival(text)
    assert read_rejection(line.rejection()) == walked_rejection(line.rejection())


@given(ADDRESS, ADDRESS)
@examples(max_examples=300)
def test_a_delivery_names_the_address_the_client_gave(to: str, sender: str) -> None:
    """With log_selector +sender_on_delivery the sender stands in brackets as well."""
    rest = f"F=<{sender}> R=local T=inbox"
    assert read_recipient(f"bob <{to}> {rest}") == to
    assert read_recipient(f"{to} {rest}") == to
    # A mailbox of its own: its local part as Exim has it inside, in small letters.
    local = internal(to).rpartition("@")[0].lower()
    assert read_recipient(f"{local} <{to}> {rest}") == to
    assert read_recipient(f":blackhole: <{to}> {rest}") == to
    assert read_recipient(f"/var/mail/a b <{to}> {rest}") == to


@pytest.mark.parametrize("length", [100, 4000])
def test_a_hostile_line_is_read_in_no_time(length: int) -> None:
    """Every place where unquoted text may end is tried, but only so many of them."""
    read_arrival("<= a@b H=(" + "x) [192.0.2.1] " * length + " P=esmtp S=1 for a@b")
    read_arrival("<= a@b H=h [192.0.2.1] U=" + "x P=esmtp " * length)
    read_rejection('H=h [192.0.2.1] DN="' + 'x" A=b ' * length + "F=<a@b> rejected RCPT <c@d>")
    assert read_rejection("H=h [192.0.2.1] F=<" + "x> " * length) is None


@pytest.mark.parametrize(
    "told",
    [
        'P=esmtps X=TLS1.2:x:256 CV=no SNI="x A=plain:u" S=1 id=1@x',
        'P=esmtps X=TLS1.2:x:256 CV=no SNI="x" A=plain:u" S=1 id=1@x',
        "P=esmtp S=1 id=x DKIM=bank.example",
        "P=esmtp S=1 id=x A=plain:u P=esmtpa",
        "P=esmtp S=1 id=x H=mx [203.0.113.9]",
    ],
)
def test_a_server_name_and_a_message_id_with_blanks(told: str) -> None:
    """Before 4.92 the SNI stood in quotes that a client could close; behind the id only T= is
    Exim's."""
    got = read_arrival(f"<= a@b.example H=mx.b.example [192.0.2.7] {told}")
    assert str(got.client.address) == "192.0.2.7" and not got.authenticated
    assert got.signers == "" and got.recipients == ()


@pytest.mark.parametrize("unknown", ["", " zz=1"])
def test_a_login_is_no_host(unknown: str) -> None:
    """Also where a line has a field that is not known, so that only its fixed places are read."""
    told = f"P=esmtpa A=plain:x (x) [203.0.113.9] P=smtp S=1{unknown} id=a@b"
    got = read_arrival(f"<= a@home.example H=(h) [192.0.2.7]:9 I=[127.0.0.1]:25 {told}")
    assert str(got.client.address) != "203.0.113.9"
    told = f"P=esmtpa L.- A=plain:x S=1{unknown} id=a@b"
    got = read_arrival(f"<= a@home.example H=(h) [192.0.2.7]:9 I=[127.0.0.1]:25 {told}")
    assert got.authenticated and str(got.client.address) == "192.0.2.7"


def test_an_ident_with_a_login_is_no_login() -> None:
    ident = ") [203.0.113.9] P=esmtpsa A=plain:alice"
    told = (
        f"P=esmtps X=TLS1.3:x:256 K S=369 id=a@b T={quoted('A=plain:alice')} for bob@home.example"
    )
    got = read_arrival(f"<= a@b.example H=h (h) [192.0.2.50]:4711 U={ident} {told}")
    assert (got.protocol, got.authenticated) == ("esmtps", False)


def test_a_message_id_hides_no_recipient() -> None:
    """A list of recipients that a client wrote behind its id takes away none that Exim delivered
    to."""
    lines = [
        f"2026-11-20 10:00:00 1xXBAb-0006Ln-34 {text}"
        for text in ("<= a@b.example H=mx [192.0.2.7] P=esmtp S=1 id=x for bob@home.example",
                     "=> trap <trap@home.example> R=r T=t", "=> eve <Eve@home.example> R=r T=t",
                     "=> Bob@home.example R=r T=t", "Completed")
    ]  # fmt: skip
    exim = Exim()
    (seen,) = [*exim.lines(lines, Clock(UTC, 1795862400.0)), *exim.finish()]
    named = [r.address.raw for r in seen.facts.recipients]
    assert named == ["bob@home.example", "trap@home.example", "Eve@home.example"]


def test_a_refused_login_with_false_words_is_only_counted() -> None:
    """No part of the line is a stranger's: neither what stands in the login, nor the sender."""
    for login in (
        "Alice Smith", '" A=x F=<ceo@bank.example> rejected RCPT <x@y>: "', "] P=esmtpsa [",
        "x) [203.0.113.9] F=<ceo@bank.example> rejected RCPT <q@w",
        "F=<a@b.example> rejected AUTH", "rejected AUTH x",
        "a; from=<ceo@bank.example> temporarily rejected",
    ):  # fmt: skip
        for verb in ("rejected RCPT <x@home.example>: no", "temporarily rejected DATA"):
            text = f"H=(h) [192.0.2.50] F=<a@spam.example> A=plain:{login} {verb}"
            (seen,) = Exim().lines([f"2026-09-01 09:00:00 {text}"], Clock(UTC, 1_790_000_000.0))
            assert seen.facts.direction == "submission"


def test_a_sender_that_looks_like_an_ident_moves_no_client() -> None:
    login = ") [203.0.113.9] P=esmtpsa"
    told = f"H=h (h) [192.0.2.50]:4711 P=esmtpsa A=plain:{login} K S=369 id=a@b for b@home.example"
    got = read_arrival(f'<= "a U=root"@spam.example {told}')
    assert (str(got.client.address), got.authenticated) == ("192.0.2.50", True)


@pytest.mark.parametrize("message", [": 550 5.1.1 User unknown", ""])
def test_a_recipient_that_exim_cut_is_a_refusal_without_it(message: str) -> None:
    """Exim writes 100 characters of what RCPT said."""
    said = ('<"nobody; F=<ceo@bank.example> rejected RCPT <x@y>: ' + "x y " * 30)[:100]
    text = f"H=(h) [192.0.2.50] F=<a@spam.example> rejected RCPT {said}{message}"
    (seen,) = Exim().lines([f"2026-09-01 09:00:00 {text}"], Clock(UTC, 1_790_000_000.0))
    assert (str(seen.facts.client.address), seen.decision.action) == ("192.0.2.50", "reject")
    assert (seen.facts.sender.raw, seen.facts.recipients) == ("a@spam.example", ())


FALSE_HOST = "H=(x) [203.0.113.9]"
FORGED = [
    f'<= a@spam.example {FALSE_HOST} P=esmtpa S=9 id=") [192.0.2.5] P=esmtp S=3 id="@q.example',
    f'<= a@spam.example {FALSE_HOST} P=esmtp A=a:u S=9 id=") [192.0.2.5] P=esmtp S=3 id="@q.x',
    f"{FALSE_HOST} F=<ceo@bank.example> rejected RCPT <q@w>: y) [192.0.2.5]"
    " F=<a@spam.example> rejected RCPT <x@home.example>: no",
    f"{FALSE_HOST} F=<ceo@bank.example> A=plain:u rejected RCPT <q@w>: y) [192.0.2.5]"
    " F=<a@spam.example> rejected RCPT <x@home.example>: no",
]


@pytest.mark.parametrize("line", FORGED)
def test_a_free_helo_names_no_other_host(line: str) -> None:
    """cPanel's Exim takes any HELO (helo_accept_junk_hosts). Once that was seen, a line that two
    hosts fit names neither, and is nobody's login."""
    exim, clock = Exim(), Clock(UTC, 1_790_000_000.0)
    head = "2026-09-01 09:00:00 "
    odd = f"{head}H=(my pc) [192.0.2.9] F=<a@b.example> rejected RCPT <x@home.example>: no"
    list(exim.lines([odd], clock))
    fresh = Exim()
    open_state.load(fresh, open_state.dump(exim), clock)
    queue_id = "1wAAAA-000001-AA " if line.startswith("<=") else ""
    lines = [f"{head}{queue_id}{line}", f"{head}1wAAAA-000001-AA Completed"]
    (one,) = fresh.lines(lines, clock)
    assert (one.facts.direction, one.facts.client.address) == ("inbound", None)
    assert one.facts.sender.raw in ("", "a@spam.example")
    plain = f"{head}H=(h) [192.0.2.7] F=<a@b.example> rejected RCPT <x@home.example>: no"
    (one,) = fresh.lines([plain], clock)
    assert str(one.facts.client.address) == "192.0.2.7"


FORGERY = "x) [203.0.113.9] F=<ceo@bank.example> rejected RCPT <q@w>: y"
INCOMPLETE = "incomplete transaction (QUIT) from"
HOST = "[192.0.2.5]:4711 I=[192.0.2.250]:25"


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        f"H=({FORGERY}) {HOST} {INCOMPLETE} <a@spam.example>",
        f'H=(h) {HOST} {INCOMPLETE} <"{FORGERY}"@spam.example>',
        f'H=(h) {HOST} {INCOMPLETE} <"{FORGERY}"@spam.example> for b@home.example c@home.example',
    ],
)
def test_what_is_no_rejection_forges_none(line: str, free: bool) -> None:
    """`smtp_incomplete_transaction`, as `log_selector = +all` has it."""
    exim = Exim()
    exim.free_helo = free
    assert not list(exim.lines([f"2026-09-01 09:00:00 {line}"], Clock(UTC, 1_790_000_000.0)))


@pytest.mark.parametrize("words", ["Warning: from", "sender verify fail for"])
def test_other_words_about_a_host_are_no_rejection(words: str) -> None:
    assert read_rejection(f'H=(h) {HOST} {words} <"{FORGERY}"@spam.example>: no') is None
    # Where a HELO may be anything, such words hide no rejection.
    hidden = f"H=(x) [203.0.113.9] {words} a) {HOST} F=<a@spam.example> rejected RCPT <b@c.example>"
    got = read_rejection(hidden, free_helo=True)
    assert got is not None and got.sender == "a@spam.example"


def test_a_login_with_blanks_is_no_end_of_a_free_helo() -> None:
    line = f"H=(h) {HOST} F=<a@spam.example> A=plain:{FORGERY} rejected after DATA: no"
    got = read_rejection(line, free_helo=True)
    assert got is not None and (got.client.address, got.sender) == (None, "")
    got = read_rejection(line)
    assert got is not None and got.authenticated and str(got.client.address) == "192.0.2.5"
