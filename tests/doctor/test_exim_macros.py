"""Macros of conf/exim that somebody has set anew: Exim itself tells, by its own expansions."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mta_unpack
from exim_checked import codes, policy_socket, program
from exim_instance import CONF, EximInstance
from gatepost_milter.doctor import exim_asked, exim_config, exim_scrub

pytestmark = [pytest.mark.exim, pytest.mark.timeout(120)]

MASK = {"GATEPOST_MASK_HOST": "yes"}
# Macros, and what is said of them.
ANEW: tuple[tuple[dict[str, str], set[str]], ...] = (
    ({"GATEPOST_KEEP": ".*", "GATEPOST_DOWN": "550 closed", "GATEPOST_FORGED": "bool{false}",
      "GATEPOST_MARKS": ""},
     {"remove-header", "down-answer", "forged-results", "question"}),
    ({"GATEPOST_KNOWN": ".*", "GATEPOST_DOWN": "451", "GATEPOST_FROM": "",
      "GATEPOST_RELAYED": "bool{false}"},
     {"unknown-fields", "down-answer", "question", "relayed"}),
    ({"GATEPOST_INSIDE": "(?!)", "GATEPOST_DOWN": "DISCARD"}, {"unknown-fields", "down-answer"}),
    ({"GATEPOST_SUBMISSION": "bool{true}"}, {"received-header", "question", "strangers-scrubbed"}),
    ({"GATEPOST_FAMILIES": "X-|S"}, {"remove-header", "removes-more"}),
    ({"GATEPOST_PROGRAM_TEXT": "Foo", "GATEPOST_SESSION": "id=$message_exim_id"},
     {"unknown-fields", "question"}),
    ({"GATEPOST_PROGRAM_ADDRESSES": "Foo"}, {"unknown-fields"}),
    ({"GATEPOST_DOWN": "451 4.3.0 Try again later", "GATEPOST_AUTHSERV": "other.example",
      **MASK}, set()),
    ({"GATEPOST_NUMBERS": "<| 1", "GATEPOST_RESULTS": "x", **MASK, "GATEPOST_MACHINE": "(?!)"},
     {"trace", "forged-results", "message-ids"}),
    ({"GATEPOST_HELO": "other.example", "GATEPOST_HOP": "Received: from $sender_host_address"},
     {"unknown-fields", "received-header", "headers-add"}),
    ({"GATEPOST_PTR": "", "GATEPOST_SILENT": ""}, {"unknown-fields", "removes-more"}),
    ({"GATEPOST_WORDS": "(?!)"}, {"unknown-fields"}),
    ({**MASK, "GATEPOST_NAMES": "(?!)"}, {"unknown-fields", "message-ids"}),
    ({"GATEPOST_ODD": "(?!)"}, {"unknown-fields"}),
    ({"GATEPOST_GLUED": "(?!)"}, {"unknown-fields"}),
    *(({**MASK, name: "(?!)"}, {"message-ids"}) for name in (
        "GATEPOST_OWN_HOST", "GATEPOST_OTHER_HOST", "GATEPOST_WORD", "GATEPOST_NAME",
        "GATEPOST_PRIVATE")),
    ({**MASK, "GATEPOST_OTHER_HOST": "@[^>]*(?=>)"}, {"message-ids"}),
    ({"GATEPOST_REMOVE": "User-Agent"}, {"remove-header"}),
)  # fmt: skip


@pytest.fixture(scope="module")
def exim(exim_programs: mta_unpack.Programs) -> Iterator[tuple[EximInstance, Path]]:
    with (
        policy_socket() as policy,
        EximInstance(exim_programs, policy, run=False) as made,
    ):
        yield made, policy


@pytest.mark.parametrize("macros, told", ANEW, ids=range(len(ANEW)))
def test_macros_set_anew(
    macros: dict[str, str], told: set[str], exim: tuple[EximInstance, Path]
) -> None:
    made, policy = exim
    file = made.root / "gatepost-main.conf"
    before = text = file.read_text()
    for name, value in macros.items():
        line = re.compile(rf"^{name} = (?:.*\\\n)*.*\n", re.M)
        assert len(line.findall(text)) == 1, name
        text = line.sub(f"{name} = {value}\n".replace("\\", r"\\"), text)
    try:
        file.write_text(text)
        assert codes(made, policy, asked=True) == told
    finally:
        file.write_text(before)


@pytest.mark.parametrize("old, new, told", [
    ("          remove_header = Received\n", "", {"trace"}),
    ("<{$item}{$received_count}", "<{$item}{2}", {"trace"}),
    ("remove_header = MIME-Version", "remove_header = X-None", {"unknown-fields"}),
])  # fmt: skip
def test_statements_written_anew(
    old: str, new: str, told: set[str], exim: tuple[EximInstance, Path]
) -> None:
    made, policy = exim
    file = made.root / "gatepost-acl.conf"
    before = file.read_text()
    assert before.count(old) == 1
    try:
        file.write_text(before.replace(old, new))
        assert codes(made, policy, asked=True) == told
    finally:
        file.write_text(before)


def test_the_network_of_an_ipv6_client(exim: tuple[EximInstance, Path]) -> None:
    """A host has several addresses in one /64; which of a header's fields then go."""
    made, _ = exim
    values = {"2001:db8:5:1::99": True, "[2001:0db8:0005:0001:1c2d::7]": True,
              "2001:db8:5:1::4d": True, "2001:db8:5:11::4d": False, "2001:db8:6:1::4d": False,
              "12001:db8:5:1::4d": False}  # fmt: skip
    options = ("-oMa", "2001:db8:5:1::4d.4711", *exim_asked.OWN[2:])
    told = "".join(f"X-Probe-{n}: on {value}\n" for n, value in enumerate(values))
    session = exim_scrub.Session(options, f"{told}From: a@local.test\n")
    answer = exim_scrub.answer(exim_config.read(made.config, program(made)), session)
    assert answer is not None
    assert [f"x-probe-{n}" in answer.removed for n in range(len(values))] == [*values.values()]


def test_no_macro_can_be_set_anew_in_silence() -> None:
    """Where the mail server asks, and the ports of submission: test_exim.py."""
    text = (CONF / "gatepost-main.conf").read_text()
    tried = {name for macros, _ in ANEW for name in macros}
    assert set(re.findall(r"^(GATEPOST_[A-Z_]+) =", text, re.M)) - tried == {
        "GATEPOST_POLICY", "GATEPOST_PORTS",
    }  # fmt: skip
