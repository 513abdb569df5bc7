"""A forged Authentication-Results is found however it is spelled: the real readers are asked.

Whatever OpenDMARC, authres or Mail::AuthenticationResults takes for a field of ours has to go.
What they do is measured here, on spellings that a machine makes; that they do take some of them
for ours is the counter-proof.
"""

import random
import time
from pathlib import Path

import pytest

import mta_unpack
import opendmarc_instance
import rings
from gatepost_policy.dkim.authresults import forged
from opendmarc_instance import verdict
from result_readers import MX, TAIL, authres_name, mutation, perl_names, spelling

SPELLINGS = 20_000
TOGETHER = 20  # fields that OpenDMARC is shown in one message: it believes any of them
SECONDS = 20.0  # for its word on single fields, which takes milliseconds for each
DNS = {"_dmarc.bank.example": "v=DMARC1; p=reject"}

HONEST = (
    "b\u00fccher.example",
    "mx\u200d.example.com",
    "=?utf-8?q?other?=.example",
    "other.example",
    "mx.example.network",
    "x.mx.example.net",
    "mx2.example.net",
    "MX",
    "mx-1.net",
)
FRAMES = (" {};", " {} ;", " {} 1;", "\n\t{};", " (by us) {};", " {} (mx.example.net);", ' "{}";')


def made(seed: int, number: int) -> list[bytes]:
    """Spellings as they come from the MTA: folds are LF."""
    rng = random.Random(seed)
    makers = (spelling, mutation)
    return [makers[n % 2](rng).replace(b"\r\n", b"\n") for n in range(number)]


def kept(values: list[bytes]) -> list[bytes]:
    """Those of `values` that stay."""
    gone = set(forged(values, MX))
    return [value for i, value in enumerate(values, 1) if i not in gone]


def test_what_authres_takes_for_ours_goes() -> None:
    values = made(1, SPELLINGS)
    assert [v for v in kept(values) if authres_name(v) == MX] == []
    assert sum(authres_name(v) == MX for v in values[:2000]) > 50


@pytest.mark.tools
@pytest.mark.timeout(300)
def test_what_mail_authenticationresults_takes_for_ours_goes() -> None:
    try:
        programs = mta_unpack.mail_authenticationresults()
    except mta_unpack.Unavailable as error:
        rings.missing("tools", str(error))
    values = made(2, SPELLINGS)
    names = [(name or "").lower() for name in perl_names(programs, values)]
    assert [
        v for v, name in zip(values, names, strict=True) if name == MX and not forged([v], MX)
    ] == []
    assert names.count(MX) > 500


@pytest.mark.tools
@pytest.mark.timeout(300)
def test_what_opendmarc_takes_for_ours_goes(tmp_path: Path) -> None:
    """An unsigned spoof of a p=reject domain: OpenDMARC believes no field that we keep."""
    try:
        programs = mta_unpack.opendmarc()
    except mta_unpack.Unavailable as error:
        rings.missing("tools", str(error))
    values = made(3, SPELLINGS)
    believed = asked = 0
    until = time.monotonic() + SECONDS
    with (
        opendmarc_instance.serving(programs, tmp_path, DNS, MX) as running,
        running.session() as session,
    ):

        def said(*values: bytes) -> str | None:
            fields = [b"Authentication-Results:" + v.replace(b"\n", b"\r\n") for v in values]
            return verdict(session, b"".join(field + b"\r\n" for field in fields), "bank.example")

        others = kept(values)
        for start in range(0, len(others), TOGETHER):
            some = others[start : start + TOGETHER]
            assert said(*some) != "pass", [v for v in some if said(v) == "pass"]
        for value in values:
            if time.monotonic() > until:
                break
            asked += 1
            if said(value) == "pass":
                believed += 1
                assert forged([value], MX) == (1,), value
                assert said(*others[: TOGETHER // 2], value, *others[: TOGETHER // 2]) == "pass"
    assert asked > 200 and believed > asked // 20, (asked, believed)


@pytest.mark.parametrize("name", [
    b"\xff mx.example.net", b"mx\xfe.example.net", b"\xc3mx.example.net\x80",
    "\ufeffmx.example.net".encode(), "m\u00adx.example\uff0enet".encode(), b"mx\0.example.net",
    "\u00a0mx.example.net 1".encode(), "mx.exa\u200bmple.net".encode(),
    "mx.\u200dexample.net".encode(), "mx.exam\u00a0ple.net".encode(),
    "m\u0085x.example.net".encode(),
    "mx.example.net\uff0e".encode(), '"mx.example.net\u2024"'.encode(),
    "mx\u2024example.net".encode(),
    b"mx.=?utf-8?Q?=65=78\n  =61=6D=70=6C=65?=.net", b"mx.example.n=?us-ascii \n ?B?ZXQ=?=",
    b"mx.exampl=?us-ascii?B?\n ZQ==?=.net", "mx.exam=?utf-8?q?ple.\u00a0n?=et".encode(),
])  # fmt: skip
def test_octets_that_nobody_shows(name: bytes) -> None:
    assert forged([b" " + name + b";" + TAIL], MX) == (1,)


@pytest.mark.parametrize("name", [
    b"(;" + b"x" * 5000 + b") mx.example.net", b"(;)" + b"(x)" * 2000 + b" mx.example.net",
    b"(;)" + b"\n " * 3000 + b"mx.example.net", b'(";")mx' + b"\n " * 3000 + b".example.net",
    b"mx(;" + b"x" * 5000 + b").example.net", b"x" * 5000 + b" mx.example.net",
    b"Authentication-Results: (;)" + b" " * 5000 + b"mx.example.net",
])  # fmt: skip
def test_a_name_that_begins_or_ends_far_behind(name: bytes) -> None:
    assert forged([b" " + name + b";" + TAIL], MX) == (1,)


@pytest.mark.parametrize("name", [
    b'"(x)"4 mx.example.net', b'"(x"4 mx.example.net', b"mx.example.net\x85|",
    b"\xa0mx.example.net\x85 1", b"\xa0 Authentication-Results:mx.example.net",
    b"(Authentication-Results:;) mx.example.net",
])  # fmt: skip
def test_words_and_blanks_that_a_reader_skips(name: bytes) -> None:
    """OpenDMARC skips a word that begins with a quoted parenthesis; Perl's \\s is any of these."""
    assert forged([b" " + name + b";" + TAIL], MX) == (1,)


@pytest.mark.parametrize("ours", ["mx.b\u00fccher.example", "mx.xn--bcher-kva.example"])
def test_a_name_in_latin_1(ours: str) -> None:
    assert forged([b" MX.b\xfccher.example 1;" + TAIL, b" mx.bucher.example;" + TAIL], ours) == (1,)


def test_a_sharp_s_in_capitals() -> None:
    """To readers with IDNA 2003, or that compare in capitals, it is a double s."""
    ours = "mx.stra\u00dfe.example"
    for name in ("MX.STRASSE.EXAMPLE", "mx. strasse.example", "mx.stra\u00dfe.example"):
        assert forged([f" {name};".encode() + TAIL], ours) == (1,), name
    assert forged([b" mx.strase.example;" + TAIL], ours) == ()


def test_others_keep_theirs() -> None:
    for name in HONEST:
        for frame in FRAMES:
            value = frame.format(name).encode() + TAIL
            assert forged([value], MX) == (), value
            assert forged([value + b" (" + b"; " * 5000 + b")"], MX) == ()
