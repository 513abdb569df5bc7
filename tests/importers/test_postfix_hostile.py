"""What a client may choose changes its own field of a line and no other: smtpd's rules as a model.

`Session` writes what Postfix's smtpd and cleanup log (smtpd.c log_whatsup, cleanup_message.c) for a
client that chose HELO, sender and recipient. Envelope and direction come out as they were.
"""

import time
from dataclasses import dataclass
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import internal
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.importers.postfix_line import DELIVERED_TO, QUEUED, read_refusal

pytestmark = pytest.mark.slow

BAIT = (
    "sasl_username=x", "; from=<ceo@bank.example>", "to=<ceo@bank.example>", "proto=ESMTP",
    "helo=<x>", "helo=<", "; from=<", "x", "<", ">", ">: Recipient address rejected: no",
    "orig_to=<ceo@bank.example>,", "relay=local,", "size=1, nrcpt=1 (queue active)",
    "from unknown[203.0.113.9]:", "queued as 4XbcdF1z2y3wB)", ", sasl_method=PLAIN",
)  # fmt: skip
BAITED = st.lists(st.sampled_from(BAIT), min_size=1, max_size=5).map(" ".join)
HELO = st.one_of(st.just("h.example"), BAITED)
ATOM = st.sampled_from(["a", "b.c", "x=y", "sasl_username=x", "proto=ESMTP"])


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


ADDRESS = st.builds(
    "{}@{}".format,
    st.one_of(ATOM, BAITED.map(quoted)),
    st.sampled_from(["spam.example", "home.example"]),
)
ECHO = st.sampled_from(["recipient", "relay", "sender", "helo", "client", "none"])


@dataclass(frozen=True)
class Session:
    sender: str
    recipient: str
    helo: str
    echo: str

    def refusal(self) -> str:
        sender, recipient = internal(self.sender), internal(self.recipient)  # as smtpd answers
        answer = {
            "recipient": f"550 5.1.1 <{recipient}>: Recipient address rejected: User unknown",
            "relay": f"554 5.7.1 <{recipient}>: Relay access denied",
            "sender": f"450 4.1.8 <{sender}>: Sender address rejected: Domain not found",
            "helo": f"504 5.5.2 <{self.helo}>: Helo command rejected: not fully qualified",
            "client": "554 5.7.1 <unknown[192.0.2.60]>: Client host rejected: Access denied",
            "none": "554 5.7.1 Service unavailable",
        }[self.echo]
        return f"reject: RCPT from unknown[192.0.2.60]: {answer}{self.fields()}"

    def fields(self) -> str:
        return f"; from=<{self.sender}> to=<{self.recipient}> proto=ESMTP helo=<{self.helo}>"


SESSIONS = st.builds(Session, ADDRESS, ADDRESS, HELO, ECHO)


@given(SESSIONS)
@examples(max_examples=1000)
def test_a_refusal_says_what_smtpd_knew(session: Session) -> None:
    got = read_refusal(session.refusal())
    assert got is not None
    assert (got.stage, got.peer, got.discarded) == ("RCPT", "unknown[192.0.2.60]", False)
    assert (got.sender, got.recipient) == (session.sender, session.recipient)
    assert got.helo == session.helo
    assert not got.logged_in


@given(SESSIONS, BAITED)
@examples(max_examples=500)
def test_a_header_check_names_the_envelope_or_nobody(session: Session, text: str) -> None:
    line = f"reject: header Subject: {text} from unknown[192.0.2.60]{session.fields()}: 5.7.1 no"
    got = read_refusal(line)
    if got is not None:
        assert got.stage == "CONTENT"
        assert got.sender in ("", session.sender)
        assert got.recipient in (None, session.recipient)


def test_a_header_check_of_plain_mail_is_whole() -> None:
    got = read_refusal(
        "discard: body cheap from unknown[192.0.2.36]; from=<x@snow.example> to=<b@home.example>"
        " proto=ESMTP helo=<h36>"
    )
    assert got is not None and got.discarded
    assert (got.sender, got.recipient, got.helo) == ("x@snow.example", "b@home.example", "h36")


@given(ADDRESS, ADDRESS)
@examples(max_examples=500)
def test_deliveries_and_senders_are_one_unit(to: str, original: str) -> None:
    rest = "relay=x[private/lmtp], delay=1, delays=0/0/0/0, dsn=2.0.0, status=sent (250 ok)"
    found = DELIVERED_TO.match(f"to=<{to}>, orig_to=<{original}>, {rest}")
    assert found is not None and (found[1], found[3]) == (to, original)
    found = DELIVERED_TO.match(f"to=<{to}>, {rest}")
    assert found is not None and (found[1], found[3], found[4]) == (to, None, None)
    queued = QUEUED.match(f"from=<{to}>, size=1000, nrcpt=1 (queue active)")
    assert queued is not None and queued.groups() == (to, "1000")


def test_a_login_is_what_stands_behind_the_helo() -> None:
    line = Session("a@home.example", "b@else.example", "h", "none").refusal()
    got = read_refusal(f"{line} sasl_username=alice")
    assert got is not None and got.logged_in


def test_an_answer_with_an_address_without_its_quotes_names_no_other_sender() -> None:
    to = "a; from=<ceo@bank.example> to=<trap@home.example> proto=SMTP helo=<x>"
    got = read_refusal(
        f"reject: RCPT from unknown[192.0.2.4]: 554 5.7.1 <{to}@home.example>: Relay access denied;"
        f' from=<a@spam.example> to=<"{to}"@home.example> proto=ESMTP helo=<h.example>'
    )
    assert got is not None and got.sender == "a@spam.example"
    assert got.recipient == f'"{to}"@home.example'


def test_a_login_cannot_say_that_its_message_was_counted_before() -> None:
    login = "x, orig_queue_id=4F3D00ABC, orig_client=mx[203.0.113.9]"
    log = [
        f"2026-11-20T10:00:00Z mx postfix/{line}"
        for line in (
            "submission/smtpd[9]: 4F3D00ABD: client=laptop[192.0.2.7], sasl_method=PLAIN,"
            f" sasl_username={login}",
            "qmgr[9]: 4F3D00ABD: from=<a@home.example>, size=1, nrcpt=1 (queue active)",
            "qmgr[9]: 4F3D00ABD: removed",
        )
    ]
    (seen,) = Postfix().lines(log, Clock(UTC, 1_800_000_000.0))
    assert seen.facts.direction == "submission"


@pytest.mark.parametrize(
    "start", ["4XbcdF1z2y3wD: client=", "4XbcdF1z2y3wD: to=<", "NOQUEUE: reject: "]
)
@pytest.mark.parametrize("filler", ["[", ", orig_client=x", " from "])
def test_long_lines_are_read_once(start: str, filler: str) -> None:
    """300 kB without an end: what would be looked at anew from each octet takes hours."""
    line = f"2026-11-20T10:00:00Z mx postfix/smtpd[9]: {start}{filler * (300_000 // len(filler))}"
    before = time.process_time()
    assert list(Postfix().lines([line], Clock(UTC, 0.0))) == []
    assert time.process_time() - before < 5
