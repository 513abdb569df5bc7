"""`submission.unknown_fields`: the published list, and what it must let through."""

import re
from pathlib import Path

import pytest

from gatepost_policy.config.field_lists import DEFAULT_REMOVE, KNOWN_FIELDS
from gatepost_policy.config.settings import Settings, Submission
from gatepost_policy.scrub import Hop, Scrubber
from gatepost_policy.scrub.client_words import ClientWords
from gatepost_policy.scrub.field_names import Fate, FieldNames

AT = 1_700_000_000.0
HOP = Hop(name="mx.example.net", version="Postfix 3.7.11", queue_id="4ABCDEF", authenticated=True)
DROP = Settings(submission=Submission(unknown_fields="drop"))

COMMON = """\
From: Alice <alice@example.org>
To: bob@example.net
Cc: carol@example.net
Reply-To: alice@example.org
Subject: hello
Date: Fri, 20 Nov 2026 10:00:00 +0000
Message-ID: <1@example.org>
In-Reply-To: <0@example.net>
References: <0@example.net>
MIME-Version: 1.0
"""
# Each kind of mail with the fields that its reader needs.
KINDS = {
    "MIME": 'Content-Type: multipart/mixed; boundary="b"\nContent-Disposition: inline\n'
            "Content-ID: <a@b>\nContent-Description: x\nContent-Location: x\n"
            "Content-Transfer-Encoding: 8bit\nX-Priority: 1\nImportance: high\nPriority: urgent\n"
            "Sensitivity: Private\nDisposition-Notification-To: alice@example.org\n"
            "Return-Receipt-To: alice@example.org\nOrganization: Example\n",
    "S/MIME": 'Content-Type: application/pkcs7-mime; smime-type=signed-data; name="smime.p7m"\n'
              "Content-Transfer-Encoding: base64\nHP-Outer: Subject: [...]\n",
    "PGP": 'Content-Type: multipart/encrypted; protocol="application/pgp-encrypted"; boundary="b"\n'
           "OpenPGP: id=ABC\nAutocrypt: addr=alice@example.org; keydata=x\n"
           "Autocrypt-Gossip: addr=bob@example.net; keydata=x\nX-PGP-Sig: x\n",
    "calendar": "Content-Class: urn:content-classes:calendarmessage\n"
                "Content-Type: text/calendar; method=REQUEST\nThread-Index: AdohUA8O\n"
                "Thread-Topic: hello\nX-MS-TNEF-Correlator: <1@example.org>\n",
    "newsletter": "List-Id: <news.example.org>\nList-Unsubscribe: <https://example.org/u>\n"
                  "List-Unsubscribe-Post: List-Unsubscribe=One-Click\nPrecedence: bulk\n"
                  "Feedback-ID: 1:example\nX-Campaign: 7\nX-Auto-Response-Suppress: All\n"
                  "Auto-Submitted: auto-generated\n",
    "Delta Chat": "Chat-Version: 1.0\nChat-Group-ID: x\nChat-User-Avatar: 0\n"
                  "Chat-Disposition-Notification-To: alice@example.org\n"
                  "Autocrypt-Setup-Message: v1\nSecure-Join: vc-request\n"
                  "Secure-Join-Invitenumber: x\n",
    "delivery": "TLS-Required: No\nMT-Priority: 3\n"
                "Require-Recipient-Valid-Since: bob@example.net; x\n"
                "Original-Recipient: rfc822;bob@example.net\nErrors-To: alice@example.org\n",
    "resent": "Resent-From: alice@example.org\nResent-To: bob@example.net\nResent-Date: x\n"
              "Resent-Message-ID: <2@example.org>\nResent-Sender: alice@example.org\n",
}  # fmt: skip


def fields(text: str) -> list[tuple[str, bytes]]:
    return [(n, v.encode()) for n, _, v in (line.partition(":") for line in text.splitlines())]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_reader_needs_comes_through(kind: str) -> None:
    header = fields(COMMON + KINDS[kind])
    plan = Scrubber(DROP).plan(header, HOP, AT, "alice@example.org")
    assert [e for e in plan.edits if e.name != "Received"] == []
    assert plan.dropped == ()


def test_what_nobody_knows_goes_and_is_named() -> None:
    """The counterpart: the same mail with a field of somebody's own."""
    header = fields(COMMON + KINDS["MIME"] + "X-Alices-Machine: it\n")
    plan = Scrubber(DROP).plan(header, HOP, AT, "alice@example.org")
    assert plan.dropped == ("x-alices-machine",)
    assert [e.name for e in plan.edits if e.name != "Received"] == ["X-Alices-Machine"]
    assert Scrubber(Settings()).plan(header, HOP, AT, None).dropped == ()


@pytest.mark.parametrize(("value", "goes"), [
    (b" 192.168.178.33", True), (b" on [10.4.7.11]:4711", True), (b" ip=172.31.0.9;", True),
    (b" fe80::1c2d:3e4f", True), (b" [IPv6:fd12:3456::7]", True), (b" 169.254.3.4", True),
    (b" x\r\n\t192.168.0.1", True), (b" 100.64.0.9", True), (b" via [100.127.255.1]", True),
    (b" ip-192-168-178-44.compute.example", True), (b" host10_1_2_3", True),
    (b" cgn-100-72-1-9", True),
    (b" MTkyLjE2OC4xNzguNDQ=", True), (b" 192%2E168%2E0%2E9", True),
    (b" =?utf-8?Q?10=2E0=2E0=2E7?=", True),
    (b" 192-168-1-2-3", False), (b" 2026-10-11-12-13", False), (b" 10-20-2026", False),
    (b" 172-32-0-1", False), (b" 192-168_1-2", False), (b" 10-300-1-2", False),
    (b" 100.63.1.1", False), (b" 100.128.1.1", False), (b" 100.6.4.1", False),
    (b" 172.32.0.9", False), (b" 10.0.19041.1", False), (b" 110.1.2.3", False),
    (b" 10.1.2.3.4", False), (b" v10.1.2.3", False), (b" fed0::1", False), (b" 127.0.0.1", False),
    (b" fe80", False), (b" fade: on", False),
])  # fmt: skip
def test_an_address_inside_the_clients_network(value: bytes, goes: bool) -> None:
    """Only its program knows it, and writes it into a field that nobody knows."""
    header = [*fields(COMMON), ("X-Gadget", value), ("Comments", value), ("Subject", value)]
    plan = Scrubber(Settings()).plan(header, HOP, AT, "alice@example.org")
    assert [e.name for e in plan.edits if e.name != "Received"] == ["X-Gadget"] * goes


@pytest.mark.parametrize(("name", "goes"), [
    ("List-Sender-Address", True), ("Content-Origin", True), ("X400-Originator", True),
    ("BIMI-Probe", True), ("List-Unsubscribe", False), ("Content-Disposition", False),
    ("List-Unsubscribe-Post", False), ("Chat-Group-Name", False), ("Autocrypt-Probe", False),
])  # fmt: skip
def test_a_name_that_nobody_has_heard_of_in_a_known_family(name: str, goes: bool) -> None:
    """It goes where it names the client, stays where it does not, and where it is kept."""
    client = ClientWords.of(None, ("alice-laptop.lan",), "alice7")
    for value, told in ((b" at alice-laptop.lan", True), (b" 10.4.7.11", True), (b" x", False)):
        header = [*fields(COMMON), (name, value)]
        for settings, kept in ((Settings(), False), (DROP, False),
                               (Settings(submission=Submission(keep=(name,))), True)):  # fmt: skip
            plan = Scrubber(settings).plan(header, HOP, AT, "alice7", client)
            found = [e.name for e in plan.edits if e.name != "Received"]
            assert found == [name] * (goes and told and not kept)


def test_the_published_list_is_the_list() -> None:
    """docs/privacy.md shows what conf and code mean."""
    text = (Path(__file__).parents[2] / "docs/privacy.md").read_text()
    listed = "`" + text.partition("## Known fields")[2].partition("\n\n`")[2]
    assert re.findall(r"`([^`]+)`", listed) == list(KNOWN_FIELDS)


def test_keep_before_remove_before_known() -> None:
    names = FieldNames(Submission(keep=("X-Apple-Mine",), remove=("X-Apple-*", "Content-Language")))
    assert names.fate("x-apple-mine") is Fate.STAYS
    assert names.fate("x-apple-other") is Fate.GOES
    assert names.fate("content-language") is Fate.GOES
    assert names.fate("content-type") is Fate.STAYS
    assert names.fate("x-whatever") is Fate.UNKNOWN
    none = FieldNames(Submission(keep=(), remove=()))
    assert none.fate("x-mailer") is Fate.UNKNOWN and none.fate("") is Fate.UNKNOWN


def test_no_name_is_on_both_lists() -> None:
    """A field that goes is not published as one that stays."""
    both = {n.lower() for n in KNOWN_FIELDS} & {n.lower() for n in DEFAULT_REMOVE}
    assert both == set()
