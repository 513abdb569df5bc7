"""The scrub on random headers, applied as Postfix applies edits, with both hiding rules."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost_milter.mta.queue_file import HIDE_FIRST, HIDE_PREFIX, Field, QueueFile
from gatepost_milter.protocol.text import field_value
from gatepost_policy.config.settings import Sender, Settings, Submission
from gatepost_policy.mail.dates import DATES, parse_date, rfc5322
from gatepost_policy.mail.decision import Edit
from gatepost_policy.scrub import Hop, Plan, Scrubber, verified

AT = 1_700_000_000.0
HOP = Hop(name="mx.example.net", version="Postfix 3.7.11", queue_id="4ABCDEF", authenticated=True)
OWN = Field(b"Received", b" from laptop (x [192.0.2.77])\n\tby mx.example.net (Postfix) id 1; d")

NAMES = st.sampled_from(
    ["Received", "RECEIVED", "X-Mailer", "x-mailer", "User-Agent", "Mime-Version", "Sender", "From",
     "Subject", "Date", "Resent-Date", "Message-ID", "References", "X-Originating-IP", "X-Custom",
     "Bcc", "Authentication-Results", "Received-SPF", "X-Received", "To"]
)  # fmt: skip
LINE = st.binary(max_size=60).map(lambda b: re.sub(rb"[\0\r\n]", b"", b))
VALUE = st.lists(LINE, min_size=1, max_size=3).map(b"\n\t".join)
HEADER = st.lists(st.tuples(NAMES, VALUE), max_size=25)
SETTINGS = st.builds(
    lambda received, date, ids: Settings(
        submission=Submission(client_received=received, date=date, message_id=ids),
        sender=Sender(own_domains=("example.org",)),
    ),
    st.sampled_from(["anonymise", "keep"]),
    st.sampled_from(["keep", "utc"]),
    st.sampled_from(["keep", "mask-host"]),
)


def apply(fields: list[tuple[str, bytes]], plan: Plan, hiding: str) -> list[Field]:
    """The header after `plan`, as Postfix's cleanup(8) would have it."""
    queued = QueueFile(OWN, [OWN, *(Field(n.encode(), v) for n, v in fields)], b"", hiding)
    for edit in plan.edits:
        value = field_value(edit.value or "").encode()
        if edit.op == "insert":
            queued.insert(edit.index, edit.name.encode(), value)
        else:
            queued.change(edit.name.encode(), edit.index, value)
    return queued.fields


@pytest.mark.parametrize("hiding", [HIDE_FIRST, HIDE_PREFIX])
@given(fields=HEADER, chosen=SETTINGS)
@settings(max_examples=150, deadline=None)
def test_any_header(hiding: str, fields: list[tuple[str, bytes]], chosen: Settings) -> None:
    """Our own hop is gone, the number of hops is kept, what may stay stays in its order."""
    scrubber = Scrubber(chosen)
    plan = scrubber.plan(fields, HOP, AT, "alice@example.org")
    assert plan.refusal is None
    assert not plan.relayed
    after = apply(fields, plan, hiding)
    received = [f for f in after if f.name.lower() == b"received"]
    sent = [v for n, v in fields if n.lower() == "received"]
    assert OWN not in after
    assert len(received) == len(sent) + 1
    assert after[: len(received)] == received  # on top, ours first
    assert received[0].value == (
        b"\n\tby mx.example.net (Postfix) with ESMTPA id 4ABCDEF;\n\t" + rfc5322(AT).encode()
    )
    if chosen.submission.client_received == "anonymise":
        for field in received[1:]:
            assert field.value.startswith(b" by anonymous.invalid; ")
    assert not [f for f in after if scrubber.names.removes(f.name.decode().lower())]
    touched = ("received", *DATES, "message-id", "references", "in-reply-to", "mime-version",
               "sender")  # fmt: skip
    kept = [(n.encode(), v) for n, v in fields
            if not scrubber.names.removes(n.lower()) and n.lower() not in touched]  # fmt: skip
    assert [(f.name, f.value) for f in after if f.name.decode().lower() not in touched] == kept


@given(fields=HEADER, chosen=SETTINGS)
@settings(max_examples=100, deadline=None)
def test_relayed_mail_keeps_everything(fields: list[tuple[str, bytes]], chosen: Settings) -> None:
    """Of mail that others wrote only our own hop goes; octets that are no UTF-8 become a hop."""
    fields = [*fields, ("List-Id", b" <x.example.com>"), ("Received", b" from a by b; x")]
    plan = Scrubber(chosen).plan(fields, HOP, AT, "alice@example.org")
    assert plan.relayed
    after = apply(fields, plan, HIDE_PREFIX)
    want = [(n.lower().encode(), v) for n, v in fields if n.lower() != "received"]
    assert [(f.name.lower(), f.value) for f in after if f.name.lower() != b"received"] == want
    assert {e.name for e in plan.edits} <= {"Received"}


@given(value=st.binary(max_size=200))
def test_any_date(value: bytes) -> None:
    """A date or none, never an exception; what is written is read back."""
    when = parse_date(value)
    assert when is None or parse_date(rfc5322(when).encode()) == when


@pytest.mark.parametrize(
    ("version", "want"),
    [("Postfix 3.0.0", True), ("Postfix 3.11.4", True), ("Postfix 3.11", True),
     ("Postfix 3.9.0-RC1", True), ("Postfix 3.8-20221007-nonprod", True), ("Postfix 3.12.0", False),
     ("Postfix 3.110", False), ("Postfix 2.11.11", False), ("Postfix 4.0", False), ("", False),
     (None, False), ("postfix 3.7.11", True), ("X Postfix 3.7.11", True),
     ("3.7.11", False), (" 3.7.11", False), ("8.17.1.9", False), ("x 8.17.1", False),
     ("Postfix 3.7.11\n", False), ("Postfix 3.7.11 x", False)],
)  # fmt: skip
def test_verified_versions(version: str | None, want: bool) -> None:
    """Whatever was not tried is not trusted."""
    assert verified(version) is want


def test_without_the_sweep_the_client_shows() -> None:
    """The check of `test_any_header` fires: without the deletions the own field stays."""
    fields = [("Received", b" from a by b; x"), ("From", b" a@example.org")]
    plan = Scrubber(Settings()).plan(fields, HOP, AT, None)
    lazy = Plan(tuple(e for e in plan.edits if e.op != "delete"))
    assert OWN in apply(fields, lazy, HIDE_PREFIX)


def test_deleting_number_one_leaks_behind_another_milter() -> None:
    """Why every Received is swept: an earlier milter's own Received hides ours from number 1."""
    fields = [("Received", b" from inner by other; x")]  # put in by another milter, at the top
    ours = Edit("insert", "Received", 0, "\n\tby mx;\n\td")
    two_steps = Plan((ours, Edit("delete", "Received", 1)))
    queued = [Field(b"Received", fields[0][1]), OWN]
    for hiding in (HIDE_FIRST, HIDE_PREFIX):
        file = QueueFile(OWN, list(queued), b"", hiding)
        for edit in two_steps.edits:
            if edit.op == "insert":
                file.insert(0, b"Received", (edit.value or "").encode())
            else:
                file.change(b"Received", edit.index, b"")
        assert OWN in file.fields


def test_names_are_remembered_within_bounds() -> None:
    """A stranger's names do not fill the memory."""
    scrubber = Scrubber(Settings())
    for n in range(5000):
        assert not scrubber.names.removes(f"x-{n}")
    assert len(scrubber.names._fates) <= 4096
