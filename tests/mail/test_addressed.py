"""Whom a signer addressed, and what a header says it is."""

import time

import pytest

from gatepost_policy.dkim.fields import Fields
from gatepost_policy.mail import marks
from gatepost_policy.mail.address import Address, parse
from gatepost_policy.mail.addressed import addressed, addresses
from gatepost_policy.mail.facts import Recipient

TRAP, USER = "trap@home.example", "user@home.example"


def is_trap(address: Address) -> bool:
    return address.trap_key == TRAP


# values of To and Cc, recipients, what it is
WORDS = [
    ((), (TRAP,), "nobody"),
    (("undisclosed-recipients:;",), (TRAP,), "nobody"),
    ((TRAP,), (TRAP,), "trap"),
    (("Trap <TRAP+tag@Home.Example>",), (TRAP,), "trap"),
    ((TRAP, USER), (TRAP, USER), "both"),
    (('"trap"@home.example',), (TRAP,), "trap"),
    (('"Trap" <"tr\\ap"@Home.Example>',), (TRAP,), "trap"),
    ((f'"{TRAP}"@far.example',), (TRAP,), "others"),
    # Somebody of the same site, in a transaction of his own.
    ((TRAP, "carol@home.example"), (TRAP,), "both"),
    ((f"a@x.example, {TRAP}",), (TRAP,), "trap"),
    ((USER,), (USER,), "recipient"),
    (("mallory@freemail.example",), (TRAP,), "others"),
    (("carol@home.example",), (TRAP,), "others"),
    # A name that reads like an address is none.
    ((f'"{TRAP}" <mallory@freemail.example>',), (TRAP,), "others"),
    ((f"mallory@freemail.example ({TRAP})",), (TRAP,), "others"),
    (("a" * 5000,), (TRAP,), "nobody"),
    ((f'"Unclosed <{TRAP}>',), (TRAP,), "trap"),
    ((f"a@{TRAP}",), (TRAP,), "others"),
]


@pytest.mark.parametrize(("values", "recipients", "want"), WORDS)
def test_words(values: tuple[str, ...], recipients: tuple[str, ...], want: str) -> None:
    signed = addresses(v.encode() for v in values)
    got = addressed(signed, [Recipient(parse(r)) for r in recipients], is_trap)
    assert got == want


@pytest.mark.parametrize(
    "unit",
    ["a", "a.b", '"', '"a\\', 'a"@', '""@', '\\"', '("', "(", "(a", '"a" ', "a@", "@a", "<", "\\"],
)
def test_a_long_field_is_read_once(unit: str) -> None:
    """A sender signs what he likes: 300 kB of it must not keep a worker busy for minutes."""
    begin = time.process_time()
    assert len(addresses([(unit * (300_000 // len(unit))).encode()])) <= 100
    assert time.process_time() - begin < 2


def test_only_what_is_signed_counts() -> None:
    """RFC 6376 5.4.2: counted from below."""
    fields = Fields()
    fields.all = [
        (b"To", b" top@x.example"),
        (b"To", b" signed@x.example"),
        (b"CC", b" c@x.example"),
    ]
    assert fields.covered([b"from", b"to"], (b"to", b"cc")) == [b" signed@x.example"]
    both = [b"from", b"to", b"to", b"to", b"cc"]
    assert len(fields.covered(both, (b"to", b"cc"))) == 3
    assert fields.covered([b"from"], (b"to", b"cc")) == []


# fields, marks
HEADERS: list[tuple[dict[str, bytes], set[str]]] = [
    ({}, set()),
    ({"list-id": b" <a.example>"}, {"list"}),
    ({"auto-submitted": b" no"}, set()),
    ({"auto-submitted": b" No; x=y"}, set()),
    ({"auto-submitted": b" auto-replied; owner=x"}, {"auto"}),
    ({"content-type": b" Multipart/Report; report-type=x"}, {"report"}),
    ({"content-type": b" text/plain; multipart/report"}, set()),
    ({"references": b" <1@x>", "in-reply-to": b" <1@x>"}, {"reply"}),
]


@pytest.mark.parametrize(("fields", "want"), HEADERS)
def test_marks(fields: dict[str, bytes], want: set[str]) -> None:
    found = marks.read(lambda name: [fields[name]] if name in fields else [])
    assert found == want
    assert marks.from_text(marks.text(found)) == frozenset(want)


def test_not_known_is_not_nothing() -> None:
    assert marks.from_text(marks.text(None)) is None
    assert marks.from_text("") == frozenset()
