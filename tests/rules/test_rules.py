"""The rules as tables: facts and knowledge in, decision and blame out."""

from dataclasses import replace
from datetime import date
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from from_table import from_table
from gatepost_policy import rules
from gatepost_policy.config.settings import Rule, Settings
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.dkim_reason import Why
from gatepost_policy.mail.facts import (
    Client,
    Direction,
    Facts,
    Family,
    Identity,
    IdentityKind,
    Recipient,
    Signature,
    Source,
    Stage,
)
from gatepost_policy.rules import Good, Known, Listed, Past, blame

AT = 1_790_000_000.0
TRAP, USER, ABUSE = "trap@home.example", "user@home.example", "abuse@home.example"


def settings(**tables: dict[str, Any]) -> Settings:
    return from_table(Settings, tables)


def signed(domain: str, **values: Any) -> Signature:
    base: dict[str, Any] = {
        "algorithm": "rsa-sha256", "key_bits": 2048, "crypto": "pass", "result": "pass",
        "addressed": "trap",
    }  # fmt: skip
    return Signature(domain=domain, **{**base, **values})


def facts(
    *to: str, client: str = "192.0.2.7", refused: tuple[str, ...] = (), **values: Any
) -> Facts:
    ip = ip_address(client)
    values.setdefault("sender", address.parse("x@spam.example"))
    values.setdefault("client", Client(Family.IPV4, ip, 4000, values.pop("name", None)))
    recipients = tuple(Recipient(address.parse(a), a not in refused) for a in (*to, *refused))
    return Facts(at=AT, recipients=recipients, **values)


def good(messages: int) -> Past:
    """A client with so many good messages on so many days."""
    return Past(client=Good(messages=messages, old=messages, days=messages))


def known(*traps: str, **values: Any) -> Known:
    return Known(traps=frozenset(traps), **values)


PREFIX = Identity(IdentityKind.PREFIX, "192.0.2.7/32", True)
DKIM = Identity(IdentityKind.DKIM, "spam.example", True)
LISTED_PREFIX = (Listed(PREFIX, AT + 60),)
LISTED_DKIM = (Listed(DKIM, AT + 60),)
PROMOTED = (Listed(Identity(IdentityKind.PREFIX, "2001:db8::/48", True), AT + 60, True),)
CLAIMED = (Identity(IdentityKind.SENDER, "x@spam.example", False),)
OURS: dict[str, Any] = {"direction": Direction.SUBMISSION}
TEMPFAIL: dict[str, Any] = {"sender": {"action": "tempfail"}}
RCPT: dict[str, Any] = {"stage": Stage.RCPT, "source": Source.POLICY}
NULL: dict[str, Any] = {"sender": address.NULL}
SRS: dict[str, Any] = {"sender": address.parse("SRS0=aa=bb=other.example=joe@fwd.example")}
MINE: dict[str, Any] = {"signatures": (signed("spam.example"),)}
GMAIL: dict[str, Any] = {
    "signatures": (signed("gmail.com"),),
    "sender": address.parse("x@gmail.com"),
}
# A mail service that signs beside its customer, both aligned: envelope at the service.
SERVICE: dict[str, Any] = {
    "signatures": (signed("sendgrid.net"), signed("spam.example")),
    "sender": address.parse("bounce@sendgrid.net"),
    "header_from": address.parse("x@spam.example"),
}

# name, facts, known, settings, (action, reason, shadow), dropped
CASES: list[tuple[str, Facts, Known, dict[str, Any], tuple[str, str, str], tuple[str, ...]]] = [
    ("nothing known", facts(USER), known(), {}, ("accept", "no-bad-signal", ""), ()),
    ("trap", facts(TRAP), known(TRAP), {}, ("reject", "trap", ""), ()),
    ("trap, tempfail", facts(TRAP), known(TRAP), {"trap": {"action": "tempfail"}},
     ("tempfail", "trap", ""), ()),
    ("trap, discard", facts(TRAP), known(TRAP), {"trap": {"action": "discard"}},
     ("discard", "trap", ""), ()),
    ("trap, accept", facts(TRAP), known(TRAP), {"trap": {"action": "accept"}},
     ("accept", "trap", ""), ()),
    ("trap at rcpt", facts(TRAP, **RCPT), known(TRAP), {}, ("accept", "trap", ""), ()),
    ("trap at rcpt, no mailbox", facts(TRAP, **RCPT), known(TRAP),
     {"trap": {"policy_answer": "reject"}}, ("reject", "trap", ""), ()),
    ("trap at rcpt, reject", facts(TRAP, stage=Stage.RCPT), known(TRAP),
     {"trap": {"action": "reject"}}, ("reject", "trap", ""), ()),
    ("the policy answer is not the milter's", facts(TRAP, stage=Stage.RCPT), known(TRAP),
     {"trap": {"policy_answer": "reject"}}, ("accept", "trap", ""), ()),
    ("bounce", facts(TRAP, **NULL), known(TRAP), {}, ("reject", "backscatter", ""), ()),
    ("forwarder", facts(TRAP, **SRS), known(TRAP), {}, ("reject", "forwarder", ""), ()),
    ("forwarder that proves itself", facts(TRAP, **SRS, signatures=(signed("fwd.example"),)),
     known(TRAP), {}, ("reject", "trap", ""), ()),
    ("freemail", facts(TRAP, **GMAIL), known(TRAP), {}, ("reject", "never-list", ""), ()),
    ("mail service and its customer", facts(TRAP, **SERVICE), known(TRAP), {},
     ("reject", "trap", ""), ()),
    ("mail service by its name", facts(TRAP, name="o1.sendgrid.net"), known(TRAP), {},
     ("reject", "never-list", ""), ()),
    ("never-listed network", facts(TRAP), known(TRAP),
     {"sender": {"never_list": ["192.0.2.0/24"]}}, ("reject", "never-list", ""), ()),
    ("another network", facts(TRAP), known(TRAP),
     {"sender": {"never_list": ["203.0.113.9", "2001:db8::/32"]}}, ("reject", "trap", ""), ()),
    ("own domain", facts(TRAP, **MINE), known(TRAP), {"sender": {"own_domains": ["spam.example"]}},
     ("reject", "never-list", ""), ()),
    ("shared client", facts(TRAP), known(TRAP, past=good(5)), {},
     ("reject", "shared-client", ""), ()),
    ("shared client, but signed", facts(TRAP, **MINE), known(TRAP, past=good(5)), {},
     ("reject", "trap", ""), ()),
    ("a store that cannot say", facts(TRAP), known(TRAP, past=None), {},
     ("reject", "trap", ""), ()),
    ("mixed", facts(TRAP, USER), known(TRAP), {}, ("accept", "trap-mixed", ""), (TRAP,)),
    ("mixed, reject", facts(TRAP, USER), known(TRAP), {"trap": {"mixed": "reject"}},
     ("reject", "trap-mixed", ""), ()),
    ("mixed, traps accepted", facts(TRAP, USER), known(TRAP), {"trap": {"action": "accept"}},
     ("accept", "trap-mixed", ""), ()),
    ("mixed, listed, watched", facts(TRAP, USER), known(TRAP, listed=LISTED_PREFIX), {},
     ("accept", "trap-mixed", "listed"), (TRAP,)),
    ("mixed, listed", facts(TRAP, USER), known(TRAP, listed=LISTED_PREFIX), TEMPFAIL,
     ("tempfail", "listed", ""), ()),
    ("mixed, listed, open", facts(TRAP, ABUSE), known(TRAP, listed=LISTED_PREFIX), TEMPFAIL,
     ("accept", "trap-mixed", ""), (TRAP,)),
    ("the real one was refused", facts(TRAP, refused=(USER,)), known(TRAP), {},
     ("reject", "trap", ""), ()),
    ("the trap was refused", facts(USER, refused=(TRAP,)), known(TRAP), {},
     ("accept", "trap-mixed", ""), ()),
    ("listed, watched", facts(USER), known(listed=LISTED_PREFIX), {},
     ("accept", "no-bad-signal", "listed"), ()),
    ("listed, watched, repeats", facts(USER), known(listed=LISTED_PREFIX, repeat=(PREFIX,)), {},
     ("accept", "repeat-sender", "listed"), ()),
    ("listed", facts(USER), known(listed=LISTED_PREFIX), TEMPFAIL, ("tempfail", "listed", ""), ()),
    ("listed, reject", facts(USER), known(listed=LISTED_PREFIX), {"sender": {"action": "reject"}},
     ("reject", "listed", ""), ()),
    ("listed, open", facts(ABUSE), known(listed=LISTED_PREFIX), TEMPFAIL,
     ("accept", "open-recipient", ""), ()),
    ("listed, open, with tag", facts("Postmaster+x@home.example"),
     known(listed=LISTED_PREFIX), TEMPFAIL, ("accept", "open-recipient", ""), ()),
    ("listed prefix, another's signature", facts(USER, **MINE), known(listed=LISTED_PREFIX),
     TEMPFAIL, ("accept", "no-bad-signal", ""), ()),
    ("listed prefix at rcpt", facts(USER, **RCPT), known(listed=LISTED_PREFIX), TEMPFAIL,
     ("tempfail", "listed", ""), ()),
    ("listed domain", facts(USER, **MINE), known(listed=LISTED_DKIM), TEMPFAIL,
     ("tempfail", "listed", ""), ()),
    ("promoted, watched", facts(USER), known(listed=PROMOTED), TEMPFAIL,
     ("accept", "no-bad-signal", "listed"), ()),
    ("promoted", facts(USER), known(listed=PROMOTED),
     {"sender": {"action": "tempfail", "promotion": "enforce"}}, ("tempfail", "listed", ""), ()),
    ("promotion off", facts(USER), known(listed=PROMOTED),
     {"sender": {"action": "tempfail", "promotion": "off"}}, ("accept", "no-bad-signal", ""), ()),
    ("repeat", facts(USER), known(repeat=(PREFIX,)), {}, ("accept", "repeat-sender", ""), ()),
    ("repeat, tempfail", facts(USER), known(repeat=(PREFIX,)),
     {"sender": {"repeat_action": "tempfail"}}, ("tempfail", "repeat-sender", ""), ()),
    ("a claim is never punished", facts(USER), known(repeat=CLAIMED),
     {"sender": {"repeat_action": "tempfail"}}, ("accept", "repeat-sender", ""), ()),
    ("own user", facts(USER, **OURS), known(), {}, ("accept", "scrubbed", ""), ()),
    ("own user to a trap", facts(TRAP, **OURS), known(TRAP),
     {}, ("accept", "own-user-trap", ""), ()),
    ("own user on a listed client", facts(USER, **OURS), known(listed=LISTED_PREFIX), TEMPFAIL,
     ("accept", "scrubbed", ""), ()),
    ("backup MX to a trap", facts(TRAP, trusted_relay=True), known(TRAP), {},
     ("accept", "trusted-relay", ""), ()),
    ("over limit", facts(USER, over_limit="x"), known(), {}, ("accept", "unscanned", ""), ()),
    ("over limit to a trap", facts(TRAP, over_limit="x"), known(TRAP),
     {}, ("reject", "not-verified", ""), ()),
    ("over limit, listed", facts(USER, over_limit="x"), known(listed=LISTED_PREFIX), TEMPFAIL,
     ("accept", "unscanned", ""), ()),
    ("over limit, refused", facts(USER, over_limit="x"), known(),
     {"milter": {"oversize": "reject"}},
     ("reject", "too-large", ""), ()),
    ("over limit, mixed, refused", facts(TRAP, USER, over_limit="x"), known(TRAP),
     {"milter": {"oversize": "reject"}}, ("reject", "too-large", ""), ()),
    # [rules.REASON]
    ("trap rule in the shadow", facts(TRAP), known(TRAP), {"rules": {"trap": {"mode": "shadow"}}},
     ("accept", "no-bad-signal", "trap"), ()),
    ("trap rule off", facts(TRAP), known(TRAP), {"rules": {"trap": {"mode": "off"}}},
     ("accept", "no-bad-signal", ""), ()),
    ("exemption in the shadow", facts(TRAP), known(TRAP, past=good(9)),
     {"rules": {"shared-client": {"mode": "shadow"}}}, ("reject", "trap", "shared-client"), ()),
    ("exemption off", facts(TRAP), known(TRAP, past=good(9)),
     {"rules": {"shared-client": {"mode": "off"}}}, ("reject", "trap", ""), ()),
    ("listed rule in the shadow", facts(USER), known(listed=LISTED_PREFIX),
     {**TEMPFAIL, "rules": {"listed": {"mode": "shadow"}}},
     ("accept", "no-bad-signal", "listed"), ()),
    ("listed in the shadow, mixed", facts(TRAP, USER), known(TRAP, listed=LISTED_PREFIX),
     {**TEMPFAIL, "rules": {"listed": {"mode": "shadow"}}},
     ("accept", "trap-mixed", "listed"), (TRAP,)),
    ("mixed in the shadow", facts(TRAP, USER), known(TRAP, listed=LISTED_PREFIX),
     {**TEMPFAIL, "rules": {"trap-mixed": {"mode": "shadow"}}},
     ("tempfail", "listed", ""), ()),
    ("mixed in the shadow, nothing else", facts(TRAP, USER), known(TRAP),
     {"rules": {"trap-mixed": {"mode": "shadow"}}}, ("accept", "no-bad-signal", "trap-mixed"), ()),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_judge(case: Any) -> None:
    name, given, what, tables, want, dropped = case
    got = rules.judge(given, what, settings(**tables))
    assert (got.action, got.reason, ",".join(got.shadow)) == want, name
    assert got.drop_recipients == dropped, name
    assert (got.reply is not None) == (got.action in ("reject", "tempfail")), name


def test_tag_goes_with_mixed_mail() -> None:
    tag = settings(sender={"action": "tag"})
    got = rules.judge(facts(TRAP, USER), known(TRAP, listed=LISTED_PREFIX), tag)
    assert (got.reason, got.tag, got.drop_recipients) == (Reason.TRAP_MIXED, True, (TRAP,))


def test_no_reply_names_a_trap() -> None:
    for name, given, what, tables, *_ in CASES:
        reply = rules.judge(given, what, settings(**tables)).reply
        assert reply is None or "trap" not in str(reply).lower(), name


def test_rule_is_back_on_its_day() -> None:
    day = date(2026, 9, 21)  # AT is noon of this day
    off = {"mode": "off"}
    for expires, want in ((None, "accept"), (day, "reject"), (date(2026, 9, 22), "accept")):
        rule = from_table(Rule, {**off, "expires": expires})
        got = rules.judge(facts(TRAP), known(TRAP), Settings(rules={Reason.TRAP: rule}))
        assert got.action == want, expires


# name, facts, known, settings, reason, blamed
BLAMES: list[tuple[str, Facts, Known, dict[str, Any], str, tuple[str, ...]]] = [
    ("unsigned", facts(TRAP), known(TRAP), {}, "trap", ("192.0.2.7/32",)),
    ("v6 is a /64", facts(TRAP, client="2001:db8:1:2:3:4:5:6"), known(TRAP), {}, "trap",
     ("2001:db8:1:2::/64",)),
    ("the domain alone", facts(TRAP, **MINE), known(TRAP), {}, "trap", ("spam.example",)),
    ("the domain even of a shared client", facts(TRAP, **MINE), known(TRAP, past=good(99)), {},
     "trap", ("spam.example",)),
    ("signed by another", facts(TRAP, signatures=(signed("other.example"),)), known(TRAP), {},
     "trap", ("192.0.2.7/32",)),
    ("a weak key names nobody", facts(TRAP, signatures=(signed("spam.example", key_bits=512),)),
     known(TRAP), {}, "trap", ("192.0.2.7/32",)),
    ("a body that is not covered", facts(TRAP, signatures=(signed("spam.example", body_limit=1),)),
     known(TRAP), {}, "trap", ("192.0.2.7/32",)),
    ("sha1 names its signer", facts(TRAP, signatures=(
        signed("spam.example", algorithm="rsa-sha1", result="policy", reason=Why.WEAK_HASH),)),
     known(TRAP), {}, "trap", ("spam.example",)),
    ("the customer, not the service", facts(TRAP, **SERVICE), known(TRAP), {}, "trap",
     ("spam.example",)),
    ("freemail", facts(TRAP, **GMAIL), known(TRAP), {}, "never-list", ()),
    ("freemail, exemption off", facts(TRAP, **GMAIL), known(TRAP),
     {"rules": {"never-list": {"mode": "off"}}}, "trap", ()),
    ("bounce", facts(TRAP, **NULL), known(TRAP), {}, "backscatter", ()),
    ("forwarder", facts(TRAP, **SRS), known(TRAP), {}, "forwarder", ()),
    ("shared client", facts(TRAP), known(TRAP, past=good(5)), {}, "shared-client", ()),
    ("own user", facts(TRAP, **OURS), known(TRAP), {}, "own-user-trap", ()),
    ("backup MX", facts(TRAP, trusted_relay=True), known(TRAP), {}, "trusted-relay", ()),
    ("own network", facts(TRAP), known(TRAP),
     {"submission": {"networks": [ip_network("192.0.2.0/24")]}}, "never-list", ()),
    ("nothing was looked at", facts(TRAP, over_limit="x"), known(TRAP), {}, "not-verified", ()),
    ("only tried out", facts(TRAP), known(TRAP),
     {"rules": {"trap": {"mode": "shadow"}}}, "trap", ()),
    ("no client", replace(facts(TRAP), client=Client()), known(TRAP), {}, "trap", ()),
]  # fmt: skip


@pytest.mark.parametrize("case", BLAMES, ids=[c[0] for c in BLAMES])
def test_blame(case: Any) -> None:
    name, given, what, tables, reason, blamed = case
    got = blame.blame(given, what, settings(**tables))
    assert (got.reason, tuple(i.value for i in got.identities)) == (reason, blamed), name
    assert all(i.proven for i in got.identities), name


@pytest.mark.parametrize(
    ("previous", "repeat", "want"),
    [
        (None, False, 86_400),
        (86_400, False, 172_800),
        (500_000, False, 604_800),
        (None, True, 604_800),
    ],
)
def test_listing_seconds(previous: int | None, repeat: bool, want: int) -> None:
    assert blame.listing_seconds(previous, repeat, Settings()) == want
