"""Selectors of the report: hostile text is a value, times and hosts are what they say."""

import json
from ipaddress import ip_network

import pytest
from sqlalchemy import Engine

from fix_report import Mail, Past, fill, seconds, told
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.address import parse
from gatepost_policy.report import selection
from gatepost_policy.text import times

NASTY = [
    "%",
    "_",
    "%@%",
    "*",
    "' OR 1=1 --",
    '"; DROP TABLE message; --',
    "slow.example/",
    "slow.example\x00",
    "slow_example",
    "s%",
    "\udcff@slow.example",
    "x" * 100_000,
    "@" * 300,
    "a@" + ".".join(["b"] * 5_000),
    "\u202e\x1b[31m",
    "[192.0.2.25]",
    "..",
    "＠",
]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_selector_is_never_a_pattern(past: Past, text: str) -> None:
    """NASTY-INPUTS D8: what strangers or operators write is compared, never interpreted."""
    try:
        chosen = selection.sender(text)
    except ValueError:
        return
    assert past.told(sender=chosen).summary.messages == 0
    assert past.told(trap=parse(chosen)).summary.messages == 0


HOSTILE = [
    "<script>alert(1)</script>@evil.example",
    "=cmd()@evil.example",
    "\x1b[2J\u202e@evil.example",
    '"a b@c"@evil.example',
    "%s%n@evil.example",
    "a@evil.example",
]


def test_hostile_senders_are_json_in_ascii(any_engine: Engine, any_settings: Settings) -> None:
    mails = [Mail(f"2026-01-0{i + 1}T00:00:00", s) for i, s in enumerate(HOSTILE)]
    fill(any_engine, mails, any_settings)
    got = told(any_engine, any_settings, sender="evil.example")
    assert got.summary.messages == len(HOSTILE)
    text = json.dumps(got.json())
    assert text.isascii()
    senders = [m["sender"] for m in json.loads(text)["messages"]]
    assert senders == HOSTILE[::-1]


def test_times() -> None:
    assert times.moment("30d", 40 * 86400.0) == 10 * 86400
    assert times.moment("2011-04-28", 0) == seconds("2011-04-28T00:00:00")
    assert times.moment("2011-04-28T12:40:26Z", 0) == seconds("2011-04-28T12:40:26")
    assert times.moment("2011-04-28T12:40:26+02:00", 0) == seconds("2011-04-28T10:40:26")
    for bad in ("yesterday", "30", "30x", "٣d", "2011-13-01", ""):
        with pytest.raises(ValueError, match="want a time"):
            times.moment(bad, 0)


def test_hosts_as_selectors() -> None:
    assert selection.host("::ffff:192.0.2.1") == ip_network("192.0.2.1")
    assert selection.host("[2001:db8::1]") == ip_network("2001:db8::1")
    assert selection.host("192.0.2.77/24") == ip_network("192.0.2.0/24")
    for bad in ("mail.example.org", "", "192.0.2.256", "192.0.2.0/33"):
        with pytest.raises(ValueError, match="want an IP address"):
            selection.host(bad)
