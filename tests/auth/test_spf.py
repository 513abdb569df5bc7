"""SPF: the RFC 7208 suite, what matched, what is remembered, and what a hostile record costs."""

import json
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from dnskit import serving, silent_port
from gatepost_policy.config.settings import Dkim
from gatepost_policy.dns import Lookups
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import Spf, SpfCheck
from gatepost_policy.spf import Checker
from gatepost_policy.spf.checker import Outcome

SUITE = json.loads((Path(__file__).parent / "rfc7208" / "suite.json").read_text("ascii"))
CLIENT = "192.0.2.7"
ZONE: dict[str, Any] = {
    "direct.example": "v=spf1 ip4:192.0.2.0/24 -all",
    "include.example": "v=spf1 include:_spf.include.example ~all",
    "_spf.include.example": "v=spf1 a:mx.include.example -all",
    "mx.include.example": {"A": CLIENT},
    "redirect.example": "v=spf1 redirect=direct.example",
    "refused.example": "v=spf1 -all",
    "personal.example": "v=spf1 exists:%{l}.users.personal.example -all",
    "joe.users.personal.example": {"A": "127.0.0.2"},
    "two.example": ["v=spf1 -all", "v=spf1 +all"],
    "broken.example": {"error": "servfail"},
    "void.example": "v=spf1 a:n1.example a:n2.example a:n3.example +all",
    "loop.example": "v=spf1 include:loop2.example -all",
    "loop2.example": "v=spf1 include:loop.example -all",
    "empty.example": "v=spf1 include:nothing.example -all",
    "typo.example": "v=spf1 ipv4:192.0.2.7 -all",
    "lying-ptr.example": "v=spf1 ptr -all",
    "7.2.0.192.in-addr.arpa": {"PTR": {"error": "servfail"}},
}


def check(
    sender: str, *, helo: str = "mx.example.net", client: str = CLIENT, zone: Any = None,
    checker: Checker | None = None, lookups: Lookups | None = None, seconds: float = 5.0,
) -> Outcome:  # fmt: skip
    lookups = lookups or Lookups(Dkim(), ZONE if zone is None else zone)
    running = (checker or Checker()).begin(
        lookups, ip_address(client), address.parse(sender), helo, time.monotonic() + seconds
    )
    return running.finish()


@pytest.mark.parametrize("scenario", SUITE, ids=lambda s: s["description"])
def test_rfc7208_suite(scenario: dict[str, Any]) -> None:
    wrong = {}
    for name, case in scenario["tests"].items():
        zone, host = scenario["zone"], case["host"]
        got = check(case["mailfrom"], helo=case["helo"], client=host, zone=zone).spf.mail_from
        if got.result not in case["result"]:
            wrong[name] = (case["result"], got)
    assert not wrong


def test_the_suite_is_whole() -> None:
    assert sum(len(scenario["tests"]) for scenario in SUITE) == 203


@pytest.mark.parametrize(
    ("domain", "result", "mechanism", "reason"),
    [
        ("direct.example", "pass", "ip4:192.0.2.0/24", None),
        ("include.example", "pass", "include:_spf.include.example", None),
        ("redirect.example", "pass", "ip4:192.0.2.0/24", None),
        ("refused.example", "fail", "-all", None),
        ("nowhere.example", "none", None, None),
        ("two.example", "permerror", None, "several-records"),
        ("broken.example", "temperror", None, "dns-servfail"),
        ("void.example", "permerror", None, "too-many-void-lookups"),
        ("loop.example", "permerror", None, "too-many-lookups"),
        ("empty.example", "permerror", None, "no-record-included"),
        ("typo.example", "permerror", None, "syntax"),
        # RFC 7208 5.5: an error at PTR is no match.
        ("lying-ptr.example", "fail", "-all", None),
    ],
)
def test_what_matched(domain: str, result: str, mechanism: str | None, reason: str | None) -> None:
    got = check(f"joe@{domain}").spf.mail_from
    assert got == SpfCheck(result, domain, mechanism, reason)


TEN = "v=spf1 " + " ".join(f"a:a{n}.example" for n in range(9))
ELSEWHERE = {f"a{n}.example": {"A": "198.51.100.1"} for n in range(9)}
HERE = {"h.example": {"A": CLIENT}}


@pytest.mark.parametrize(
    ("record", "more", "want"),
    [
        # RFC 7208 4.6.1: names of modifiers are read without regard to case.
        ("v=spf1 ReDirect=r.example", {"r.example": "v=spf1 Ip4:192.0.2.0/24 -all"}, "pass"),
        ("v=spf1 redirect=r.example Redirect=r.example", {"r.example": "v=spf1 +all"}, "permerror"),
        ("v=spf1 EXP=a.example exp=b.example +all", {}, "permerror"),
        # 6: unknown modifiers are ignored, however often they appear.
        ("v=spf1 foo=1 foo=2 Foo=%{d} +all", {}, "pass"),
        ("v=spf1 default=fail default=pass", {}, "neutral"),
        # 4.6.4: terms count where they are evaluated; 6.1: behind a match redirect= is not.
        (f"{TEN} a:h.example redirect=r.example", ELSEWHERE | HERE, "pass"),
        (f"{TEN} redirect=r.example", ELSEWHERE | {"r.example": "v=spf1 +all"}, "pass"),
        (f"{TEN} a:v.example redirect=r.example", ELSEWHERE | {"r.example": "v=spf1 +all"},
         "permerror"),
        ("v=spf1 redirect=%{d}.gone.example", {}, "permerror"),
        # Only the include that is reached can go round in a circle.
        ("v=spf1 ip4:192.0.2.7 include:d.example -all", {}, "pass"),
        ("v=spf1 ip4:192.0.2.8 include:d.example -all", {}, "permerror"),
        ("v=spf1 ip4:192.0.2.7 include: -all", {}, "permerror"),
        ("v=spf1 ip4:192.0.2.7 -include:d.example/24", {}, "permerror"),
        ("v=spf1 -include:r.example +all", {"r.example": "v=spf1 +all"}, "fail"),
        # 7.3: a name that is too long loses labels from its left.
        ("v=spf1 exists:" + "%{l}." * 16 + "x.example -all",
         {"joe-of-the-house." * 14 + "x.example": {"A": CLIENT}}, "pass"),
    ],
)  # fmt: skip
def test_terms(record: str, more: dict[str, Any], want: str) -> None:
    got = check("joe-of-the-house@d.example", zone={"d.example": record, **more}).spf.mail_from
    assert got.result == want, got


def test_the_clients_name_is_asked_for_where_it_is_used() -> None:
    """%{p} costs up to eleven look-ups (RFC 7208 7.3): not where a term before it matches."""
    zone: dict[str, Any] = {"d.example": "v=spf1 ip4:192.0.2.7 exists:%{p}.x.example -all"}
    reverse = "7.2.0.192.in-addr.arpa", "PTR"
    assert reverse not in check("joe@d.example", zone=zone).used[1]
    zone |= {"d.example": "v=spf1 ip4:192.0.2.8 exists:%{p}.x.example -all",
             reverse[0]: {"PTR": "m.d.example"}, "m.d.example": {"A": CLIENT},
             "m.d.example.x.example": {"A": "127.0.0.1"}}  # fmt: skip
    got = check("joe@d.example", zone=zone)
    assert reverse in got.used[1] and got.spf.mail_from.result == "pass"


def test_both_identities() -> None:
    got = check("joe@refused.example", helo="direct.example").spf
    assert (got.mail_from.result, got.helo.result) == ("fail", "pass")
    assert (got.mail_from.domain, got.helo.domain) == ("refused.example", "direct.example")


def test_a_bounce_is_asked_about_by_its_helo() -> None:
    got = check("<>", helo="direct.example").spf
    assert got == Spf(got.helo, got.helo) and got.helo.result == "pass"


@pytest.mark.parametrize("helo", ["localhost", "[192.0.2.7]", "192.0.2.7", "", "a..b", "x" * 300])
def test_a_helo_that_is_no_domain_asks_nothing(helo: str) -> None:
    got = check("joe@direct.example", helo=helo)
    assert got.spf.helo.result == "none"
    assert {name for used in got.used for name in used} == {("direct.example", "TXT")}


def test_the_answers_that_were_used_are_told() -> None:
    helo, sender = check("joe@include.example").used
    assert helo | sender == {
        ("mx.example.net", "TXT"): None,
        ("include.example", "TXT"): ZONE["include.example"],
        ("_spf.include.example", "TXT"): ZONE["_spf.include.example"],
        ("mx.include.example", "A"): CLIENT,
    }


def test_an_at_sign_in_a_quoted_local_part() -> None:
    got = check('"a@refused.example"@direct.example').spf.mail_from
    assert (got.domain, got.result) == ("direct.example", "pass")


def test_verdicts_are_remembered_by_client_and_domain() -> None:
    checker, clock = Checker(), [0.0]
    checker._clock = lambda: clock[0]
    first = Lookups(Dkim(), {"d.example": "v=spf1 ip4:192.0.2.7 -all"}, clock=lambda: clock[0])
    other = Lookups(Dkim(), {"d.example": "v=spf1 -all"}, clock=lambda: clock[0])

    def result(lookups: Lookups, client: str = CLIENT, sender: str = "a@d.example") -> str:
        return check(sender, client=client, checker=checker, lookups=lookups).spf.mail_from.result

    assert result(first) == "pass"
    assert result(other, sender="b@d.example") == "pass"
    assert result(other, client="192.0.2.8") == "fail"
    clock[0] = 3601.0
    assert result(other) == "fail"


def test_a_record_that_asks_for_the_person_is_evaluated_for_each() -> None:
    checker = Checker()
    for local, want in (("joe", "pass"), ("eve", "fail"), ("joe", "pass")):
        got = check(f"{local}@personal.example", checker=checker).spf.mail_from
        assert got.result == want


def test_a_silent_server_is_a_temporary_error_and_is_not_remembered() -> None:
    quiet, place = silent_port()
    checker = Checker()
    with quiet:
        lookups = Lookups(Dkim(nameservers=(place,), lookup_timeout_ms=5_000))
        begun = time.monotonic()
        got = check("a@d.example", checker=checker, lookups=lookups, seconds=0.2).spf.mail_from
        assert (got.result, got.reason) == ("temperror", "dns-timeout")
        assert time.monotonic() - begun < 3
    assert check("a@d.example", checker=checker, zone={"d.example": "v=spf1 +all"}).spf.mail_from


def test_look_ups_on_the_wire() -> None:
    with serving({"d.example": "v=spf1 include:e.example -all", "e.example": "v=spf1 +all"}) as dns:
        lookups = Lookups(Dkim(nameservers=(dns.address,)))
        checker = Checker()
        for _ in range(3):
            got = check("a@d.example", helo="localhost", checker=checker, lookups=lookups)
            assert got.spf.mail_from == SpfCheck("pass", "d.example", "include:e.example")
        assert dict(dns.asked) == {"d.example": 1, "e.example": 1}


@pytest.mark.parametrize(
    "record",
    [
        "v=spf1 a:." + "a" * 8000 + "! -all",
        "v=spf1 " + "a:x.example " * 600 + "-all",
        "v=spf1 a:" + "%{d9999999999999}." * 20 + "example -all",
        "v=spf1 a:%{d" + "9" * 400 + "}.example -all",
        "v=spf1 exists:%{x}.example",
        "v=spf1 \x00\xff -all",
        "v=spf1 a:" + "x." * 200 + "example/99999 -all",
    ],
)
def test_hostile_records_cost_little(record: str) -> None:
    begun = time.process_time()
    got = check("a@h.example", zone={"h.example": record}).spf.mail_from
    assert got.result in ("permerror", "fail", "none")
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("term", [
    "exists:%{d0}.x.example", "exists:%{d.x.example", "include:%{l0r}", "redirect=%{d", "foo=%{d",
    "exp=%{o00-}", "exists:%{d}%",
])  # fmt: skip
def test_macros_that_are_none(term: str) -> None:
    """RFC 7208 7.1: asks for no part at all, or is not closed."""
    got = check("joe@d.example", zone={"d.example": f"v=spf1 {term} -all"}).spf.mail_from
    assert (got.result, got.reason) == ("permerror", "syntax")
