"""An explanation names every rule, decides as the rules do, and says what is not known."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from from_table import from_table
from gatepost_policy import rules
from gatepost_policy.config.settings import Sender, Settings
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.facts import (
    Client,
    Direction,
    Facts,
    Family,
    Identity,
    IdentityKind,
    Recipient,
    Signature,
    Spf,
    SpfCheck,
)
from gatepost_policy.rules import Known, Listed, Past
from gatepost_policy.rules.blame import blame
from gatepost_policy.rules.excuses import CLASSES
from gatepost_policy.rules.explain import Explained, explain
from gatepost_policy.rules.rules import RULES

AT = 1_790_000_000.0
TRAP = "trap@home.example"
CLIENT = Identity(IdentityKind.PREFIX, "192.0.2.7/32", True)
SIGNED = Signature(
    "spam.example", "s1", "rsa-sha256", "relaxed/relaxed", 2048, crypto="pass", result="pass",
    addressed="trap",
)  # fmt: skip
FACTS = Facts(
    at=AT,
    client=Client(Family.IPV4, ip_address("192.0.2.7"), 4000, None),
    sender=address.parse("x@spam.example"),
    recipients=(Recipient(address.parse(TRAP)),),
    marks=frozenset(),
)
PLAIN, TO_TRAP = Settings(), Known(traps=frozenset({TRAP}), past=Past())
SHADOW = from_table(Settings, {"rules": {"listed": {"mode": "shadow", "owner": "a", "note": "b",
                                                        "expires": "2099-01-01"}}})  # fmt: skip
OFF = from_table(Settings, {"sender": {"action": "reject"}, "rules": {"trap": {
    "mode": "off", "owner": "a", "note": "b", "expires": "2099-01-01"}}})  # fmt: skip
REJECT = from_table(Settings, {"sender": {"action": "reject"}})


def effects(found: Explained) -> dict[str, str]:
    return {said.rule: said.effect for said in found.rules}


@pytest.mark.parametrize("settings", [PLAIN, REJECT, SHADOW, OFF])
@pytest.mark.parametrize(
    "known",
    [
        Known(),
        TO_TRAP,
        Known(listed=(Listed(CLIENT, AT + 60),), repeat=(CLIENT,)),
        replace(TO_TRAP, listed=(Listed(CLIENT, AT + 60),), past=None),
    ],
)
@pytest.mark.parametrize("facts", [
    FACTS, replace(FACTS, signatures=(SIGNED,)), replace(FACTS, sender=address.NULL),
    replace(FACTS, direction=Direction.SUBMISSION), replace(FACTS, trusted_relay=True),
    replace(FACTS, over_limit="header"),
])  # fmt: skip
def test_it_decides_as_the_rules_do(facts: Facts, known: Known, settings: Settings) -> None:
    found = explain(facts, known, settings)
    assert found.decision == rules.judge(facts, known, settings)
    assert [said.rule for said in found.rules] == [rule.__name__ for rule in RULES]
    deciding = [said.reason for said in found.rules if said.effect == "decides"]
    assert deciding == ([found.decision.reason] if deciding else [])
    assert all(said.words for said in (*found.rules, *found.classes))
    if found.blame is not None:
        assert found.blame == blame(facts, known, settings)
        assert [said.rule for said in found.classes] == [reason.value for reason, _ in CLASSES]


def test_those_behind_the_deciding_one_are_told_as_not_asked() -> None:
    known = replace(TO_TRAP, listed=(Listed(CLIENT, AT + 60),))
    got = effects(explain(FACTS, known, REJECT))
    assert (got["own_user"], got["trap"], got["listed"]) == ("silent", "decides", "not asked")


def test_shadow_is_said() -> None:
    known = Known(listed=(Listed(CLIENT, AT + 60),))
    both = replace(SHADOW, sender=Sender(action="reject"))
    found = explain(FACTS, known, both)
    listed = next(said for said in found.rules if said.rule == "listed")
    assert (listed.effect, listed.action, listed.reason) == ("shadow", "reject", "listed")
    assert "192.0.2.7/32 until 2026-" in listed.words
    assert found.decision.shadow == (Reason.LISTED,)


def test_a_class_that_excuses_is_named() -> None:
    found = explain(replace(FACTS, sender=address.NULL), TO_TRAP, PLAIN)
    effect = {said.rule: said.effect for said in found.classes}
    assert (effect["own-host"], effect["backscatter"]) == ("silent", "decides")
    assert found.blame is not None and found.blame.reason is Reason.BACKSCATTER


@pytest.mark.parametrize(
    ("spf", "addressed", "past", "second"),
    [
        ("pass", "trap", Past(), (True, True, False, False, False)),
        ("fail", "others", Past(), (False, False, True, False, False)),
        (None, None, None, (None, None, None, None, None)),
    ],
)
def test_both_witnesses_and_what_is_not_known_of_them(
    spf: str | None, addressed: str | None, past: Past | None, second: tuple[Any, ...]
) -> None:
    check = SpfCheck(spf or "none", "spam.example")
    facts = replace(
        FACTS,
        signatures=(replace(SIGNED, addressed=addressed),),
        spf=None if spf is None else Spf(check, check),
    )
    (witness,) = explain(facts, replace(TO_TRAP, past=past), PLAIN).witnesses
    assert (witness.whose, witness.signed) == ("spam.example", True)
    assert tuple(holds for _, holds in witness.second) == second


def test_an_unsigned_hit_has_the_client_alone() -> None:
    (witness,) = explain(FACTS, TO_TRAP, PLAIN).witnesses
    assert (witness.whose, witness.signed) == ("192.0.2.7/32", False)
    (unsure,) = explain(FACTS, replace(TO_TRAP, past=None), PLAIN).witnesses
    assert unsure.second[1][1] is None
