"""Results in a second pass: what we wrote stays, what somebody else wrote in our name does not."""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from gatepost_milter.filter.answers import Deliver
from gatepost_milter.filter.context import Context
from gatepost_milter.filter.gate import Gate
from gatepost_milter.filter.session import Session
from gatepost_milter.mta.conversation import OFFERED_ACTIONS, OFFERED_STEPS
from gatepost_milter.protocol.negotiation import Offer
from gatepost_milter.protocol.peer import Peer
from gatepost_policy.config.settings import Settings, Store, Submission
from gatepost_policy.mail.decision import Edit

MX = "mx.example.net"
FROM = b" Bank <service@bank.example>"
HEADER = (("From", FROM), ("Date", b" Tue, 14 Nov 2023 23:13:10 +0100"), ("Subject", b" x"),
          ("Message-ID", b" <1@bank.example>"))  # fmt: skip
FORGED = b" mx.example.net; dkim=pass header.d=bank.example"


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    settings = Settings(
        store=Store(url=f"sqlite:///{tmp_path}/x.sqlite"),
        submission=Submission(
            trusted_relays=(ip_network("192.0.2.77/32"), ip_network("127.0.0.1/32"))
        ),
    )
    gate = Gate(settings)
    gate.log.descriptor = -1
    yield Context(gate)
    gate.close()


def send(
    context: Context, client: str, queue_id: str, *fields: tuple[str, bytes],
    to: bytes = b"<bob@example.net>", body: bytes = b"Hello\r\n",
) -> tuple[Edit, ...]:  # fmt: skip
    """A message with these fields on top of the usual ones: the edits of its answer."""
    session = Session(context, context.agree(Offer(OFFERED_ACTIONS, OFFERED_STEPS)))
    macros = {"j": MX, "v": "Postfix 3.7.11", "i": queue_id}
    session.connect(Peer(f"[{client}]", "4", 4000, client), macros.get)
    session.mail(b"<service@bank.example>", (), macros.get)
    session.rcpt(to, macros.get)
    for name, value in (*fields, *HEADER):
        session.header(name, value)
    if body:
        session.body(body)
    answer = session.end(macros.get)
    session.settle()
    session.close()
    assert isinstance(answer, Deliver)
    return answer.edits


def received(queue_id: str) -> tuple[str, bytes]:
    return ("Received", f" from x (y [192.0.2.1])\n\tby {MX} (Postfix) with ESMTP id {queue_id};"
            "\n\tTue, 14 Nov 2023 23:13:10 +0100".encode())  # fmt: skip


def relay() -> tuple[str, bytes]:
    return ("Received", b" from z (z [198.51.100.7])\n\tby mx2.example.net (Postfix) with ESMTP"
            b" id 9;\n\tTue, 14 Nov 2023 23:13:11 +0100")  # fmt: skip


def first_pass(context: Context, queue_id: str = "4AAA") -> bytes:
    """A message of a stranger: our results for it."""
    edits = send(context, "198.51.100.7", queue_id)
    assert edits[-1].value is not None
    return edits[-1].value.encode()


@pytest.mark.parametrize("client", ["127.0.0.1", "192.0.2.77"])
def test_what_we_wrote_stays(context: Context, client: str) -> None:
    ours = first_pass(context)
    refolded = ours.replace(b";\n\t", b"; ")
    for value in (ours, refolded):
        fields = (relay(), ("Authentication-Results", value), received("4AAA"))
        assert send(context, client, "4BBB", *fields) == ()


def test_a_queue_id_alone_does_not_make_results_ours(context: Context) -> None:
    """Anybody may learn one, and send what he wants by way of a backup MX."""
    ours = first_pass(context)
    gone = Edit("delete", "Authentication-Results", 1)
    none = Edit("insert", "Authentication-Results", 0, " mx.example.net;\n\tnone")
    forged = (relay(), received("4AAA"), ("Authentication-Results", FORGED))
    for client in ("192.0.2.77", "127.0.0.1"):
        assert send(context, client, "4CCC", *forged) == (gone, none)
    # A program on this machine writes the subject, say, again: what it hands back is ours.
    back = (received("4AAA"), ("Authentication-Results", ours), ("Subject", b" [x] y"))
    assert send(context, "127.0.0.1", "4CCD", *back) == ()
    # Results that are ours, but of another author's message.
    other = first_pass(context, "4DDD")
    assert other == ours
    moved = (relay(), received("4DDD"), ("Authentication-Results", ours))
    assert send(context, "192.0.2.77", "4EEE", *moved) == ()
    stolen = (*moved, ("From", b" Other <service@other.example>"))
    assert send(context, "192.0.2.77", "4FFF", *stolen) == (gone, none)
    # Ours stays beside a forged one.
    both = (*moved, ("Authentication-Results", FORGED))
    assert send(context, "192.0.2.77", "4GGG", *both) == (
        Edit("delete", "Authentication-Results", 2),
    )


def test_with_another_text_results_are_not_sent_to_others(context: Context) -> None:
    """A reader of ours could send a bank's mail again, by way of a backup MX, and change it."""
    ours = first_pass(context)
    moved = (relay(), ("Authentication-Results", ours), received("4AAA"))
    both = {"to": b"<ann@example.net>", "body": b"Pay here\r\n"}
    gone = Edit("delete", "Authentication-Results", 1)
    none = Edit("insert", "Authentication-Results", 0, " mx.example.net;\n\tnone")
    for client in ("192.0.2.77", "127.0.0.1"):
        assert send(context, client, "4BBB", *moved, **both) == (gone, none)
        assert send(context, client, "4BBC", *moved, to=both["to"], body=b"") == (gone, none)
        # A list manager sends it to others, empty lines at the end do not count; a filter adds to
        # it.
        assert send(context, client, "4BBD", *moved, to=both["to"], body=b"Hello\r\n\r\n") == ()
        assert send(context, client, "4BBE", *moved, body=both["body"]) == ()
