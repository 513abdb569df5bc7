"""What a hostile or unlucky signature becomes: one stated result each, and never an exception.

Every signature here is right but for the one thing its case is about, so that the guard, not a
wrong hash, is what stops it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import pytest

from dkimkit import (
    AT,
    BODY,
    DOMAIN,
    ED,
    HEADER,
    NAME,
    RSA,
    SELECTOR,
    Ed,
    Rsa,
    public,
    rsa,
    signature,
    verify,
)

NOW = int(AT)


@dataclass(frozen=True)
class Case:
    """`want` is (result, reason, crypto); `flags` are wanted among the signature's flags."""

    name: str
    want: tuple[str, str | None, str | None]
    tags: Mapping[str, str | None] = field(default_factory=dict)
    key: Rsa | Ed = RSA
    record: Any = None  # None: the key's own
    h: str = "from:to:subject:date"
    c: str = "relaxed/relaxed"
    body: bytes = BODY
    added: bytes = b""
    flags: tuple[str, ...] = ()
    hash_name: str | None = None


def permerror(reason: str) -> tuple[str, str, None]:
    return "permerror", reason, None


PASS = ("pass", None, "pass")
CASES = [
    Case("plain", PASS),
    Case("ed25519", PASS, key=ED),
    *(Case(f"c={c}", PASS, c=c) for c in ("simple/simple", "simple/relaxed", "relaxed", "simple")),
    # 1: what dkimpy passes and RFC 6376 or RFC 8301 does not
    Case("sha1", ("policy", "weak-hash", "pass"), {"a": "rsa-sha1"}, flags=("weak-hash",)),
    Case("no From in h=", permerror("from-not-signed"), h="to:subject:date"),
    Case("key h=sha1", ("permerror", "key-hash", "pass"), record=RSA.record + "; h=sha1"),
    Case("key h=sha1:sha256", PASS, record=RSA.record + "; h=sha1 : sha256"),
    Case("key h=, unknown ones", ("permerror", "key-hash", "pass"), record=RSA.record + "; h=md5"),
    Case("key h=rsa-sha256, of an old opendkim-genkey", ("permerror", "key-hash", "pass"),
         record=RSA.record + "; h=rsa-sha256"),
    Case("key h= forbids, and the body is another", ("permerror", "key-hash", "fail"),
         record=RSA.record + "; h=sha1", added=b"more\r\n"),
    Case("key t=s", permerror("key-strict"), {"i": f"@a.{DOMAIN}"}, record=RSA.record + "; t=s"),
    Case("key t=s, i= at d=", PASS, {"i": f"@{DOMAIN}"}, record=RSA.record + "; t=s"),
    Case("key t=y", ("pass", "testing-key", "pass"), record=RSA.record + "; t=y:x",
         flags=("testing-key",)),
    Case("text after l=", ("pass", "partial", "pass"), {"l": "10"}, added=b"Buy now\r\n",
         flags=("partial",)),
    # 3: what makes dkimpy raise
    Case("l= empty", permerror("bad-length"), {"l": ""}),
    Case("t= of 5000 digits", permerror("bad-timestamp"), {"t": "1" * 5000}),
    Case("x= of 5000 digits", permerror("bad-timestamp"), {"x": "1" * 5000}),
    Case("bh=A===", permerror("bad-base64"), {"bh": "A==="}),
    Case("bh= empty", permerror("bad-base64"), {"bh": ""}),
    Case("RSA against an ed25519 key", permerror("key-type"), record=ED.record),
    Case("ed25519 against an RSA key", permerror("key-type"), key=ED, record=RSA.record),
    # 5, 8: the field itself
    Case("v= missing", permerror("version"), {"v": None}),
    Case("v=2", permerror("version"), {"v": "2"}),
    Case("v=1.0", permerror("version"), {"v": "1.0"}),
    Case("a= unknown", permerror("unknown-algorithm"), {"a": "rsa-md5"}),
    Case("c= nonsense", permerror("unknown-canonicalization"), {"c": "loose/looser"}),
    Case("c= three", permerror("unknown-canonicalization"), {"c": "relaxed/relaxed/relaxed"}),
    Case("q= other", permerror("unknown-query"), {"q": "dns/http"}),
    Case("q= list", PASS, {"q": "dns/http : dns/txt"}),
    Case("i= elsewhere", permerror("bad-identity"), {"i": "joe@example.com"}),
    Case("i= at a longer name", permerror("bad-identity"), {"i": "joe@notexample.org"}),
    Case("i= without @", permerror("bad-identity"), {"i": DOMAIN}),
    Case("i= subdomain", PASS, {"i": "joe@mail.Example.org"}),
    Case("i= quoted-printable", PASS, {"i": "joe@example=2Eorg"}),
    Case("i= quoted-printable, local part", PASS, {"i": "j=3Boe=40x@example.org"}),
    Case("i= not under d=, quoted", permerror("bad-identity"), {"i": "joe@example=2Ecom"}),
    *(Case(f"no {tag}=", permerror("syntax"), {tag: None}) for tag in ("h", "bh")),
    Case("no d=", permerror("syntax"), {"d": None}),
    Case("no s=", permerror("syntax"), {"s": None}),
    Case("no a=", permerror("syntax"), {"a": None}),
    Case("unknown tags", PASS, {"zz": "what ever", "r2": ""}),
    Case("tag names are of one case", permerror("syntax"), {"s": None, "S": "s1"}),
    *(
        Case(f"d= {name}", permerror("bad-domain"), {"d": d})
        for name, d in (
            ("empty", ""), ("NUL", "exam\0ple.org"), ("8-bit", "ex\udce9mple.org"),
            ("300 octets", ".".join(["a" * 49] * 6)), ("label of 64", "a" * 64 + ".org"),
            ("..", "example..org"), ("dot first", ".example.org"), ("dot last", "example.org."),
            ("paren", "example.com(.evil"), ("percent", "%.org"), ("blank", "exam ple.org"),
            ("one label", "org"), ("quote", "a'b.org"), ("at", "a@example.org"),
            ("broken U-label", "xn--\u00fc.org"), ("hyphen first", "-a.org"),
        )
    ),
    *(
        Case(f"s= {name}", permerror("bad-selector"), {"s": s})
        for name, s in (
            ("empty", ""), ("NUL", "s\0"), ("8-bit", "s\udcff"), ("300 octets", "s." * 150 + "s"),
            ("..", "a..b"), ("paren", "s(1"), ("percent", "%"),
            ("with d= too long", "a." * 115 + "a"),
        )
    ),
    Case("public suffix", ("policy", "public-suffix", None), {"d": "co.uk"}),
    # 6: l=
    Case("l= negative", permerror("bad-length"), {"l": "-1"}),
    Case("l= 76 nines", permerror("body-too-short"), {"l": "9" * 76}),
    Case("l= 77 nines", permerror("bad-length"), {"l": "9" * 77}),
    Case("l= Arabic digits", permerror("bad-length"), {"l": "\u0661\u0662"}),
    Case("l= plus", permerror("bad-length"), {"l": "+1"}),
    Case("l= one more than the body", permerror("body-too-short"), {"l": "58"}),
    Case("l=0", ("pass", "partial", "pass"), {"l": "0"}, flags=("partial",)),
    # 7: times
    Case("x= before t=", permerror("bad-timestamp"), {"t": str(NOW), "x": str(NOW - 1)}),
    Case("x= is t=", PASS, {"t": str(NOW), "x": str(NOW)}),
    Case("t= in the future", permerror("future-timestamp"), {"t": str(NOW + 86400)}),
    Case("a clock that is hours ahead", PASS, {"t": str(NOW + 4 * 3600)}),
    Case("x= an hour ago", ("permerror", "expired", "pass"), {"x": str(NOW - 3600)}),
    Case("x= past", ("permerror", "expired", "pass"), {"x": str(NOW - 86400)}, flags=("expired",)),
    Case("x= within the skew", PASS, {"x": str(NOW - 200)}),
    Case("t= negative", permerror("bad-timestamp"), {"t": "-5"}),
    Case("t= of 13 digits", permerror("bad-timestamp"), {"t": "1" * 13}),
    Case("x= far ahead", PASS, {"x": "9" * 12}),
    # 9: keys
    Case("512 bits", ("policy", "weak-key", "pass"), key=rsa(512), flags=("weak-key",)),
    Case("2048 bits", PASS, key=rsa(2048, size=512)),
    Case("8192 bits", PASS, key=rsa(8192, size=512)),
    Case("16384 bits", permerror("key-too-large"), key=rsa(16384, size=512),
         record=f"p={public(rsa(16384, size=512).n, 65537)}"),
    Case("exponent of 1000 bits", permerror("key-too-large"), key=rsa(1024, e=2**1000 + 297)),
    Case("e=3", PASS, key=rsa(1024, e=3)),
    Case("e=1", permerror("bad-key"), key=Rsa(RSA.primes, 1)),
    Case("e=2", permerror("bad-key"), record=f"p={public(RSA.n, 2)}"),
    Case("n=0", permerror("bad-key"), record=f"p={public(0, 65537)}"),
    Case("n negative", permerror("bad-key"), record=f"p={public(-RSA.n, 65537)}"),
    Case("e negative", permerror("bad-key"), record=f"p={public(RSA.n, -65537)}"),
    Case("n even", permerror("bad-key"), record=f"p={public(RSA.n + 1, 65537)}"),
    Case("64 KB record", permerror("key-record-too-long"),
         record=RSA.record + "; n=" + "x" * 65536),
    Case("revoked", permerror("key-revoked"), record="v=DKIM1; k=rsa; p="),
    Case("revoked, with blanks", permerror("key-revoked"), record="v=DKIM1; p= ;"),
    Case("no p=", permerror("bad-key-record"), record="v=DKIM1; k=rsa"),
    Case("another kind of record", permerror("key-version"), record="v=spf1 -all"),
    Case("record empty", permerror("bad-key-record"), record=""),
    Case("p= no base64", permerror("bad-key"), record="p=%%%"),
    Case("p= no key", permerror("bad-key"), record="p=AAAA"),
    Case("ed25519 of 31 octets", permerror("bad-key"), key=ED, record="k=ed25519; p=" + "A" * 40),
    Case("k= unknown", permerror("key-type"), record=RSA.record.replace("k=rsa", "k=dsa")),
    Case("s=email:web", PASS, record=RSA.record + "; s=email:web"),
    Case("s=*", PASS, record=RSA.record + "; s=*"),
    Case("s=web", permerror("key-service"), record=RSA.record + "; s=web"),
    Case("v=DKIM2", permerror("key-version"), record=RSA.record.replace("DKIM1", "DKIM2")),
    *(
        Case(f"v= not first, {name}", permerror("bad-key-record"), record=record)
        for name, record in (
            ("at the end", RSA.record.removeprefix("v=DKIM1; ") + "; v=DKIM1"),
            ("second", RSA.record.replace("v=DKIM1; k=rsa", "k=rsa; v=DKIM1")),
            ("behind an unknown tag", f"x=1;{RSA.record}"),
            ("behind a blank note", f"n=;{RSA.record}"),
        )
    ),
    Case("no v=", PASS, record=RSA.record.removeprefix("v=DKIM1; ")),
    Case("several, one fits", PASS, record=["v=spf1 -all", ED.record, RSA.record]),
    Case("several, none fits", permerror("several-keys"), record=["v=spf1 -all", ED.record]),
    # Letters of either case, padding that got lost, selectors that are none
    *(
        Case(f"a={a}", PASS, {"a": a}, hash_name="sha256")
        for a in ("RSA-SHA256", "Rsa-Sha256", "rsa-SHA256")
    ),
    Case("a=ED25519-SHA256", PASS, {"a": "ED25519-SHA256"}, key=ED),
    Case("a=RSA-SHA1", ("policy", "weak-hash", "pass"), {"a": "RSA-SHA1"}, hash_name="sha1"),
    Case("c=Relaxed/SIMPLE", PASS, {"c": "Relaxed/SIMPLE"}, c="relaxed/simple"),
    Case("c= with blanks", ("permerror", "unknown-canonicalization", "pass"),
         {"c": "relaxed / simple"}, c="relaxed/simple"),
    Case("key h=SHA256", PASS, record=RSA.record + "; h=SHA256"),
    Case("k=RSA", PASS, record=RSA.record.replace("k=rsa", "k=RSA")),
    Case("k=Ed25519", PASS, key=ED, record=ED.record.replace("k=ed25519", "k=Ed25519")),
    Case("s=Email", PASS, record=RSA.record + "; s=Email"),
    Case("p= without padding", PASS, record=RSA.record.rstrip("=")),
    *(
        Case(f"s={s}", ("permerror", "bad-selector", "pass"), {"s": s})
        for s in ("-s", "s-", "_s-", "a.-b", "s1.")
    ),
    Case("s= wrong, and the key is missing", permerror("bad-selector"), {"s": "s-"}, record=...),
    Case("s= wrong, and expired", ("permerror", "bad-selector", "pass"),
         {"s": "s-", "x": str(NOW - 86400)}),
    Case("p= with blanks", PASS, record=RSA.record[:99] + " \t" + RSA.record[99:]),
    # 2, 10: played back
    Case("no such name", permerror("no-key"), record=...),
    Case("no TXT there", permerror("no-key-record"), record=[]),
    Case("time-out", ("temperror", "dns-timeout", None), record={"error": "timeout"}),
    Case("servfail", ("temperror", "dns-servfail", None), record={"error": "servfail"}),
    Case("unusable answer", permerror("dns-unusable"), record={"error": "permerror"}),
    Case("a number for an answer", permerror("dns-unusable"), record=5),
    Case("unknown error word", permerror("dns-unusable"), record={"error": "what"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_guard(case: Case) -> None:
    body = case.body
    signed = signature(
        HEADER, body, case.key, tags=case.tags, h=case.h, c=case.c, hash_name=case.hash_name
    )
    record = case.key.record if case.record is None else case.record
    if record is ...:
        record = None
    selector = (case.tags.get("s") or SELECTOR).removesuffix(".")
    domain = case.tags.get("d") or DOMAIN
    name = NAME if selector == SELECTOR and domain == DOMAIN else f"{selector}._domainkey.{domain}"
    outcome = verify([signed, *HEADER], body + case.added, {name: record})
    (got,) = outcome.signatures
    assert (got.result, got.reason, got.crypto) == case.want, case.name
    assert set(case.flags) <= set(got.flags)
    # Names in A-labels and lower case only, and a small alphabet, whatever the field said.
    assert got.algorithm is None or got.algorithm.islower()
    if got.result not in ("pass", "policy") or case.flags:
        assert not got.proven or got.flags == ("weak-hash",)


def test_changed_body_and_changed_header_are_told_apart() -> None:
    signed = signature(HEADER, BODY)
    body = verify([signed, *HEADER], BODY.replace(b"hungry", b"thirsty")).signatures[0]
    assert (body.result, body.reason, body.crypto) == ("fail", "body-hash-mismatch", "fail")
    other = [(n, v.replace(b"dinner", b"supper")) for n, v in HEADER]
    header = verify([signed, *other]).signatures[0]
    assert (header.result, header.reason, header.crypto) == ("fail", "bad-signature", "fail")


def test_padding_that_got_lost() -> None:
    name, value = signature(HEADER, BODY)
    for tag in (b"bh", b"b"):
        before, found, rest = value.partition(b" " + tag + b"=")
        text, semicolon, after = rest.partition(b";")
        assert text.endswith(b"=")
        changed = before + found + text.rstrip(b"=") + semicolon + after
        if tag == b"b":
            got = verify([(name, changed), *HEADER]).signatures[0]
            assert (got.result, got.reason, got.crypto) == ("pass", None, "pass")
        else:
            # Signed without the padding: the field is what it was.
            signed = signature(HEADER, BODY, tags={"bh": text.rstrip(b"=").decode()})
            got = verify([signed, *HEADER]).signatures[0]
            assert (got.result, got.reason, got.crypto) == ("pass", None, "pass")
    short = verify([(name, value.rstrip(b"=")[:-5]), *HEADER]).signatures[0]
    assert (short.result, short.crypto) in {("fail", "fail"), ("permerror", None)}


OTHERS = [rsa(1024, e=17).record, rsa(1024, e=257).record, rsa(2048, size=512).record]


@pytest.mark.parametrize("records", list(permutations([*OTHERS[:2], RSA.record])), ids=str)
def test_several_keys_are_tried_whatever_their_order(records: tuple[str, ...]) -> None:
    """RFC 6376 6.1.2 (4); the order of TXT records means nothing and changes."""
    signed = signature(HEADER, BODY)
    got = verify([signed, *HEADER], BODY, {NAME: list(records)}).signatures[0]
    assert (got.result, got.reason, got.crypto, got.key_bits) == ("pass", None, "pass", 1024)
    broken = verify([signed, *HEADER], BODY + b"x\r\n", {NAME: list(records)}).signatures[0]
    assert (broken.result, broken.reason, broken.crypto) == ("fail", "body-hash-mismatch", "fail")


def test_no_more_than_three_keys_are_tried_and_always_the_same_ones() -> None:
    signed = signature(HEADER, BODY)
    said = set()
    for records in permutations([*OTHERS, RSA.record]):
        got = verify([signed, *HEADER], BODY, {NAME: list(records)}).signatures[0]
        said.add((got.result, got.reason, got.crypto))
    assert len(said) == 1
    # A key that must not be used is none of the three.
    unfit = [record + "; s=web" for record in OTHERS]
    got = verify([signed, *HEADER], BODY, {NAME: [*unfit, RSA.record]}).signatures[0]
    assert got.result == "pass"


def test_what_is_refused_proves_nothing() -> None:
    """`crypto` says pass where RFC 6376 refuses: nobody may be held to it."""
    for tags, record in (({"s": "s-"}, RSA.record), ({}, RSA.record + "; h=sha1")):
        signed = signature(HEADER, BODY, tags=tags)
        name = f"{tags.get('s', SELECTOR)}._domainkey.{DOMAIN}"
        got = verify([signed, *HEADER], BODY, {name: record}).signatures[0]
        assert (got.result, got.crypto, got.proven) == ("permerror", "pass", False)


def test_signatures_that_cannot_pass_take_no_room() -> None:
    """The bound on verified signatures is for those that may pass."""
    refused = [signature(HEADER, BODY, tags={"s": f"s{i}-"}) for i in range(10)]
    outcome = verify([*refused, signature(HEADER, BODY), *HEADER])
    assert outcome.signatures[-1].result == "pass"
    assert {s.reason for s in outcome.signatures[:-1]} == {"bad-selector"}


def test_second_from_does_not_ride_along() -> None:
    signed = signature(HEADER, BODY)
    for extra in ([(b"From", b" evil@example.com"), *HEADER], [*HEADER, (b"from ", b" evil@x.y")]):
        assert verify([signed, *extra]).signatures[0].reason == "bad-signature"


def test_b_malformed() -> None:
    name, value = signature(HEADER, BODY)
    for b in (b"A===", b"", b"====", b"\xff\xfe", b"AAAA!", b"A"):
        got = verify([(name, value.partition(b"; b=")[0] + b"; b=" + b), *HEADER]).signatures[0]
        assert (got.result, got.reason) == ("permerror", "bad-base64"), b


@pytest.mark.parametrize(
    "value",
    [b"", b" ", b";;;", b"no equals", b"=", b" v=1; v=1", b" v=1;; a=b", b"\n\t;\n ", b"\xff=\xfe",
     b"v=1;" * 5000, b" a=" + b"x" * 1_000_000, b" v=1; b=" + b" " * 30_000, b"\0", b" 1=2"],
)  # fmt: skip
def test_fields_that_are_no_tag_list(value: bytes) -> None:
    # The sound signature beside it must come to its result all the same.
    outcome = verify([(b"DKIM-Signature", value), signature(HEADER, BODY), *HEADER])
    got, sound = outcome.signatures
    assert (got.result, got.crypto) == ("permerror", None)
    assert got.reason in ("syntax", "signature-too-long", "version")
    assert sound.result == "pass"


def test_folding_in_odd_places() -> None:
    name, value = signature(HEADER, BODY)
    folded = value.replace(b"; ", b"\r\n\t;\r\n ").replace(b"=r", b" \r\n =\r\n\tr")
    got = verify([(name, folded), *HEADER]).signatures[0]
    assert (got.result, got.domain, got.selector) == ("fail", DOMAIN, "s1")  # readable, but changed
    # Folded before signing it is as good as any other.
    own = signature(HEADER, BODY, tags={"h": "from :\r\n\tto\r\n : subject:date"})
    assert verify([own, *HEADER]).signatures[0].result == "pass"


def test_u_label_domain() -> None:
    """RFC 8616: d= may be written in U-labels; key and record know it by its A-labels."""
    signed = signature(HEADER, BODY, tags={"d": "b\u00fccher.example"})
    dns = {"s1._domainkey.xn--bcher-kva.example": RSA.record}
    got = verify([signed, *HEADER], dns=dns).signatures[0]
    assert (got.result, got.domain) == ("pass", "xn--bcher-kva.example")


def test_l_beyond_what_a_database_holds_is_recorded_cut() -> None:
    got = verify([signature(HEADER, BODY, tags={"l": "9" * 76}), *HEADER]).signatures[0]
    assert got.body_limit == 2**63 - 1


def test_unsigned_octets_are_counted() -> None:
    covered = 20
    got = verify([signature(HEADER, BODY, tags={"l": str(covered)}), *HEADER]).signatures[0]
    total = 54  # BODY relaxed: one double blank less, one empty line less at the end
    assert (got.body_limit, got.unsigned_bytes) == (covered, total - covered)
    assert not got.proven
    whole = verify([signature(HEADER, BODY, tags={"l": str(total)}), *HEADER]).signatures[0]
    assert (whole.unsigned_bytes, whole.reason, whole.proven) == (0, None, True)
