"""DMARC: tree walks, alignment, policies, failures of DNS."""

import time
from typing import Any

import pytest

from dmarc_walks import CASES, Case, zone_of
from dnskit import serving
from gatepost_policy.config.settings import Dkim
from gatepost_policy.dmarc import Checker
from gatepost_policy.dmarc.tree_walk import walk
from gatepost_policy.dns import Answer, Lookups
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import Dmarc, Signature, Spf, SpfCheck

NONE = SpfCheck("none")
PLAIN = {"_dmarc.example.com": "v=DMARC1; p=reject"}


def signed(domain: str, result: str = "pass", **more: Any) -> Signature:
    return Signature(domain=domain, result=result, crypto=result, **more)


def passed(domain: str, result: str = "pass", reason: str | None = None) -> Spf:
    return Spf(SpfCheck(result, domain, None, reason), NONE)


def judge(
    zone: dict[str, Any], author: str, *signatures: Signature, spf: Spf | None = None,
    checker: Checker | None = None, lookups: Lookups | None = None,
) -> Dmarc:  # fmt: skip
    others = [s.domain for s in signatures] + [spf.mail_from.domain if spf else None]
    running = (checker or Checker()).begin(
        lookups or Lookups(Dkim(), zone), address.parse(author), others, time.monotonic() + 5
    )
    return running.finish(signatures, spf)[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tree_walk(case: Case) -> None:
    lookups = Lookups(Dkim(), zone_of(case))

    def ask(name: str, kind: str) -> Answer:
        got = lookups.ask(name, kind)
        assert isinstance(got, Answer)
        return got

    found = walk(ask, case.domain)
    assert found.organisation == case.organisation
    assert (found.applies[0] if found.applies else None) == case.place
    assert len(found.used) <= 8
    got = judge(zone_of(case), f"joe@{case.domain}")
    want = "none" if case.place is None else "fail"
    assert (got.result, got.organisation, got.policy) == (want, case.organisation, case.policy)


def test_there_are_forty_walks() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize(
    ("zone", "author", "signatures", "spf", "result", "aligned"),
    [
        (PLAIN, "example.com", [signed("example.com")], None, "pass", ("dkim",)),
        (PLAIN, "example.com", [], passed("example.com"), "pass", ("spf",)),
        (PLAIN, "example.com", [signed("a.example.com")], passed("b.example.com"), "pass",
         ("dkim", "spf")),
        (PLAIN, "news.example.com", [signed("mail.example.com")], None, "pass", ("dkim",)),
        (PLAIN, "example.com", [signed("example.net")], passed("example.org"), "fail", ()),
        (PLAIN, "example.com", [signed("notexample.com")], None, "fail", ()),
        (PLAIN, "example.com", [signed("com")], None, "fail", ()),
        (PLAIN, "example.com", [signed("example.com", "fail")], None, "fail", ()),
        (PLAIN, "example.com", [signed("example.com", flags=("testing-key",))], None, "fail", ()),
        (PLAIN, "example.com", [], passed("example.com", "softfail"), "fail", ()),
        # RFC 9989 4.4: strict alignment is equality.
        ({"_dmarc.example.com": "v=DMARC1; p=reject; adkim=s"}, "example.com",
         [signed("a.example.com")], passed("a.example.com"), "pass", ("spf",)),
        ({"_dmarc.example.com": "v=DMARC1; p=reject; aspf=s; adkim=s"}, "example.com",
         [signed("a.example.com")], passed("a.example.com"), "fail", ()),
        # A line drawn by psd=n: what is below is another organisation.
        (PLAIN | {"_dmarc.b.example.com": "v=DMARC1; p=none; psd=n"}, "example.com",
         [signed("a.b.example.com")], None, "fail", ()),
        # Two customers of one public suffix that publishes.
        ({"_dmarc.bank": "v=DMARC1; p=reject; psd=y"}, "one.bank", [signed("two.bank")], None,
         "fail", ()),
        ({"_dmarc.bank": "v=DMARC1; p=reject; psd=y"}, "one.bank", [signed("a.one.bank")], None,
         "pass", ("dkim",)),
        # No record for anybody: nothing to be said.
        ({}, "example.com", [signed("example.com")], passed("example.com"), "none", ()),
    ],
)  # fmt: skip
def test_alignment(
    zone: dict[str, Any], author: str, signatures: list[Signature], spf: Spf | None, result: str,
    aligned: tuple[str, ...],
) -> None:  # fmt: skip
    got = judge(zone, f"joe@{author}", *signatures, spf=spf)
    assert (got.result, got.aligned) == (result, aligned)


@pytest.mark.parametrize(
    ("record", "result", "policy"),
    [
        ("v=DMARC1", "fail", "none"),
        ("v=DMARC1; p=rejekt", "permerror", None),
        ("v=DMARC1; p=reject; sp=nope", "permerror", None),
        ("v=DMARC1; p=rejekt; rua=mailto:dmarc@example.com", "fail", "none"),
        ("v=DMARC1; p=reject; np=nope; rua=mailto:dmarc@example.com", "fail", "none"),
        ("v=DMARC1; p=rejekt; rua=nonsense", "permerror", None),
        ("v=DMARC1; p=REJECT", "fail", "reject"),
        ("v=DMARC1;p=reject;", "fail", "reject"),
        ("v=DMARC1; p=reject; t=y", "fail", "reject"),
        ("v=DMARC1; p=reject; =; ;;; adkim", "fail", "reject"),
    ],
)
def test_records(record: str, result: str, policy: str | None) -> None:
    got = judge({"_dmarc.example.com": record}, "joe@example.com")
    assert (got.result, got.policy) == (result, policy)


SERVFAIL = {"error": "servfail"}


@pytest.mark.parametrize(
    ("zone", "author", "signature", "spf", "want"),
    [
        ({"_dmarc.example.com": SERVFAIL}, "example.com", "example.com", None, "temperror"),
        ({"_dmarc.a.example.com": SERVFAIL} | PLAIN, "a.example.com", "a.example.com", None,
         "temperror"),
        # The policy is there and the identifier is the same: nothing else needs to be known.
        (PLAIN | {"_dmarc.com": SERVFAIL}, "example.com", "example.com", None, "pass"),
        (PLAIN | {"_dmarc.com": SERVFAIL}, "example.com", "a.example.com", None, "temperror"),
        # What is not known might have passed.
        (PLAIN, "example.com", "", passed("mail.example.com", "temperror", "dns-timeout"),
         "temperror"),
        (PLAIN, "example.com", "", passed("example.net", "temperror", "dns-timeout"), "fail"),
    ],
)  # fmt: skip
def test_failures_of_dns(
    zone: dict[str, Any], author: str, signature: str, spf: Spf | None, want: str
) -> None:
    signatures = [signed(signature)] if signature else []
    got = judge(zone, f"joe@{author}", *signatures, spf=spf)
    assert got.result == want and (got.reason is not None) == (want == "temperror")


@pytest.mark.parametrize("author", ["joe", "joe@[192.0.2.1]", "joe@a b.example", "joe@" + "x" * 70])
def test_an_author_without_a_domain(author: str) -> None:
    got = judge(PLAIN, author)
    assert (got.result, got.reason) == ("none", "no-author")


def test_walks_are_remembered_and_asked_once() -> None:
    zone = {f"_dmarc.{name}": record for name, record in (("example.com", "v=DMARC1; p=reject"),)}
    with serving(zone) as dns:
        lookups, checker = Lookups(Dkim(nameservers=(dns.address,))), Checker()
        for _ in range(3):
            got = judge({}, "joe@example.com", signed("a.example.com"), checker=checker,
                        lookups=lookups)  # fmt: skip
            assert got == Dmarc("pass", "example.com", "example.com", "reject", ("dkim",))
        assert dict(dns.asked) == {
            "_dmarc.example.com": 1, "_dmarc.com": 1, "_dmarc.a.example.com": 1,
        }  # fmt: skip


def test_hostile_records_cost_little() -> None:
    begun = time.process_time()
    for record in (
        "v=DMARC1;" + " " * 8000,
        "v=DMARC1;" + "a=b;" * 4000,
        "v=DMARC1; p=" + " " * 8000,
    ):
        judge({"_dmarc.example.com": record}, "joe@example.com")
    assert time.process_time() - begun < 0.5
