"""dkimpy beside us: what it makes of a signature, and where it is known to be wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dkim
from hypothesis import strategies as st

from dkimkit import (
    BODY,
    ED,
    HEADER,
    NAME,
    RSA,
    Header,
    Rsa,
    join,
    signature,
)

Made = tuple[Header, bytes]


def theirs(message: bytes, dns: Mapping[str, Any], index: int = 0) -> str:
    """What dkimpy makes of one signature: pass, fail, or the name of what it raised."""

    def txt(name: bytes, timeout: int = 5) -> bytes | None:
        try:
            answer = dns.get(name.decode().rstrip(".").lower())
        except UnicodeDecodeError:
            return None
        if isinstance(answer, dict):
            if answer["error"] == "timeout":
                raise dkim.DnsTimeoutError(name)
            return None  # as dkim.dnsplug does on SERVFAIL
        if isinstance(answer, list):
            answer = answer[0] if answer else None
        return None if answer is None else str(answer).encode()

    try:
        return "pass" if dkim.DKIM(message, minkey=1024).verify(index, dnsfunc=txt) else "fail"
    except dkim.ValidationError as error:
        return "fail" if "body hash mismatch" in str(error) else "ValidationError"
    except Exception as error:  # the point of some rows is what it raises
        return type(error).__name__


blank = st.sampled_from([" ", "  ", "\t", "\r\n ", "\r\n\t ", " \r\n\t"])


word = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), max_size=6)


values = st.lists(st.tuples(blank, word), max_size=5).map(lambda p: "".join(a + b for a, b in p))


names = st.sampled_from(["From", "to", "Subject", "Date", "X-A", "x-a", "List-Id", "Received"])


headers = st.lists(st.tuples(names, values), min_size=1, max_size=9)


lines = st.lists(st.sampled_from(["a", " ", "  b", "\t", "\r\n", "\r\n\r\n", "c \r\n", "\r"]))


@dataclass(frozen=True)
class Row:
    """dkimpy says `wrong` where `rfc` wants our (result, reason)."""

    name: str
    rfc: str
    wrong: str
    right: tuple[str, str | None]
    made: Callable[[], Made]
    dns: Mapping[str, Any] | None = None


def signed(key: Any = RSA, body: bytes = BODY, **how: Any) -> Callable[[], Made]:
    """A message with one signature, sent as it was signed."""
    return lambda: ([signature(HEADER, body, key, **how), *HEADER], body)


def changed(old: bytes, new: bytes, made: Callable[[], Made]) -> Callable[[], Made]:
    """The same, with `old` changed to `new` wherever it stands."""

    def change() -> Made:
        header, body = made()
        assert old in join(header, body)
        return [(n, v.replace(old, new)) for n, v in header], body.replace(old, new)

    return change


def blank_after_b() -> Made:
    (name, value), *rest = signed(tail=b"; z=1")()[0]
    return [(name, value.replace(b"; z=1", b" ; z=1")), *rest], BODY


def b_is(text: bytes) -> Callable[[], Made]:
    def make() -> Made:
        name, value = signature(HEADER, BODY)
        return [(name, value.partition(b"; b=")[0] + b"; b=" + text), *HEADER], BODY

    return make


def spaced() -> Made:
    header = [(n + b" " if n == b"Date" else n, v) for n, v in HEADER]
    return [signature(header, BODY), *header], BODY


BLANKS = b"text  \t"


WRONG = [
    Row("rsa-sha1", "RFC 8301 3.1", "pass", ("policy", "weak-hash"),
        signed(tags={"a": "rsa-sha1"})),
    Row("h= without From", "RFC 6376 6.1.1", "pass", ("permerror", "from-not-signed"),
        signed(h="to:subject")),
    Row("key for sha1 only", "RFC 6376 3.6.1, h=", "pass", ("permerror", "key-hash"),
        signed(), {NAME: RSA.record + "; h=sha1"}),
    Row("strict key, i= below d=", "RFC 6376 3.6.1, t=s", "pass", ("permerror", "key-strict"),
        signed(tags={"i": "@a.example.org"}), {NAME: RSA.record + "; t=s"}),
    Row("v= of the key not first", "RFC 6376 3.6.1, v=", "pass", ("permerror", "bad-key-record"),
        signed(), {NAME: RSA.record.removeprefix("v=DKIM1; ") + "; v=DKIM1"}),
    Row("testing key", "RFC 6376 3.6.1, t=y", "pass", ("pass", "testing-key"),
        signed(), {NAME: RSA.record + "; t=y"}),
    Row("text after l=", "RFC 6376 8.2", "pass", ("pass", "partial"), signed(tags={"l": "9"})),
    Row("l= beyond the body", "RFC 6376 3.5, l=", "pass", ("permerror", "body-too-short"),
        signed(tags={"l": "5000"})),
    Row("public suffix", "RFC 6376 8.13", "pass", ("policy", "public-suffix"),
        signed(tags={"d": "co.uk"}), {"s1._domainkey.co.uk": RSA.record}),
    Row("e=1, which anybody can sign with", "RFC 8017 3.1", "pass", ("permerror", "bad-key"),
        signed(Rsa(RSA.primes, 1)), {NAME: Rsa(RSA.primes, 1).record}),
    Row("VT after a signed field", "RFC 6376 2.8, 3.4.2", "pass", ("fail", "bad-signature"),
        changed(b"ready?", b"ready?\x0b", signed())),
    Row("bare LF for CRLF", "RFC 5322 2.3", "pass", ("fail", "body-hash-mismatch"),
        changed(b"Hi.\r\n", b"Hi.\n", signed())),
    Row("q= list", "RFC 6376 3.5, q=", "ValidationError", ("pass", None),
        signed(tags={"q": "x:dns/txt"})),
    Row("i= in quoted-printable", "RFC 6376 2.11", "ValidationError", ("pass", None),
        signed(tags={"i": "@example=2Eorg"})),
    Row("blank before the colon", "RFC 5322 4.5.8", "MessageFormatError", ("pass", None), spaced),
    Row("blank after b=", "RFC 6376 3.7", "fail", ("pass", None), blank_after_b),
    Row("b= within another tag", "RFC 6376 3.7", "fail", ("pass", None),
        signed(tags={"z": "Subject: b=one"})),
    Row("blank at the end, c=simple", "RFC 6376 3.4.1", "fail", ("pass", None),
        signed(c="simple/simple", tail=b"; ")),
    Row("h= names the signature's own field", "RFC 6376 3.5, h=", "fail", ("pass", None),
        signed(h="from:dkim-signature")),
    Row("body ends in blanks", "RFC 6376 3.4.4", "fail", ("pass", None),
        lambda: ([signature(HEADER, BLANKS + b"\r\n"), *HEADER], BLANKS)),
    Row("U-label d=", "RFC 8616 3", "fail", ("pass", None),
        signed(tags={"d": "b\u00fccher.example"}),
        {"s1._domainkey.xn--bcher-kva.example": RSA.record}),
    Row("key for mail and more", "RFC 6376 3.6.1, s=", "UnknownKeyTypeError", ("pass", None),
        signed(), {NAME: RSA.record + "; s=email:web"}),
    Row("several records, the second fits", "RFC 6376 3.6.2.2", "fail", ("pass", None),
        signed(), {NAME: ["v=spf1 -all", RSA.record]}),
    Row("time-out", "RFC 6376 6.1.2", "fail", ("temperror", "dns-timeout"),
        signed(), {NAME: {"error": "timeout"}}),
    Row("SERVFAIL", "RFC 6376 6.1.2", "fail", ("temperror", "dns-servfail"),
        signed(), {NAME: {"error": "servfail"}}),
    Row("no key", "RFC 6376 6.1.2", "fail", ("permerror", "no-key"), signed(), {NAME: None}),
    Row("revoked key", "RFC 6376 6.1.2", "fail", ("permerror", "key-revoked"),
        signed(), {NAME: "v=DKIM1; p="}),
    Row("l= empty", "RFC 6376 3.5", "ValueError", ("permerror", "bad-length"),
        signed(tags={"l": ""})),
    Row("t= of 5000 digits", "RFC 6376 3.5", "ValueError", ("permerror", "bad-timestamp"),
        signed(tags={"t": "1" * 5000})),
    Row("b=A===", "RFC 6376 2.10", "Error", ("permerror", "bad-base64"), b_is(b"A===")),
    Row("bh=A===", "RFC 6376 2.10", "Error", ("permerror", "bad-base64"),
        signed(tags={"bh": "A==="})),
    Row("RSA signature, ed25519 key", "RFC 6376 3.6.1, k=", "ValueError", ("permerror", "key-type"),
        signed(), {NAME: ED.record}),
]  # fmt: skip
