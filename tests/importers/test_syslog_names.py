"""Postfix with another `syslog_name`, and logs that name the other MTA: both are read alike."""

from datetime import UTC

import pytest

from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.importers.wrapping import looks_like, unwrapped

CLOCK = Clock(UTC, 1_800_000_000.0)
NAMES = ("postfix", "postfix/submission", "postfix-out", "mx1-postfix", "out", "mail/in")
AT = "2026-11-20T10:00:00Z"


def lines(name: str) -> list[str]:
    peer = "unknown[203.0.113.1]"
    failed = f"warning: {peer}: SASL LOGIN authentication failed: no, sasl_username"
    return [
        f"{AT} mx {name}/smtpd[9]: connect from {peer}",
        f"{AT} mx {name}/smtpd[9]: {failed}=aaron",
        f"{AT} mx {name}/smtpd[9]: {failed}=abby",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_failed_logins_are_seen_under_every_name(name: str) -> None:
    importer = Postfix()
    assert list(importer.lines(lines(name), CLOCK)) == []
    assert dict(importer.tally.kinds) == {"other": 1, "logins": 2}
    told = [one["address"] for one in importer.guessing.take_logins(lambda names: set())
            if one["kind"] == "guess"]  # fmt: skip
    assert told == ["aaron", "abby"]
    assert looks_like(lines(name)) == "postfix"


@pytest.mark.parametrize("name", NAMES)
def test_a_container_that_writes_no_time_of_its_own(name: str) -> None:
    bare = [f"{AT} {line.partition(' mx ')[2]}" for line in lines(name)]
    cri = [f"{AT} stdout F {line.partition(' mx ')[2]}" for line in lines(name)]
    for wrapped in (bare, cri):
        unwrap = unwrapped(wrapped)
        assert unwrap is not None
        importer = Postfix()
        for block in unwrap([wrapped]):
            list(importer.lines(block, CLOCK))
        assert importer.tally.kinds["logins"] == 2


def test_other_programs_are_no_postfix() -> None:
    importer = Postfix()
    for program in ("postfixadmin", "smtpd", "cron/smtp-report", "kernel"):
        list(importer.lines([f"{AT} mx {program}[1]: connect from x"], CLOCK))
    assert dict(importer.tally.kinds) == {"other programs": 4}


@pytest.mark.parametrize("prefix", ["", "1xXBAb-0006Ln-34 "])
def test_a_client_cannot_say_whose_log_it_is(prefix: str) -> None:
    """The first line of a followed log decides how all of it is read."""
    sender = '"postfix/smtpd[1]: "@spam.example'
    refusal = f"{prefix}H=(h) [192.0.2.5] F=<{sender}> rejected RCPT <x@home.example>: no"
    assert looks_like([f"2026-11-20 10:00:00 {refusal}"]) == "exim"
    assert looks_like([f"Nov 20 10:00:00 mx exim[9]: {refusal}"]) == "exim"
    arrival = f"1xXBAb-0006Ln-34 <= {sender} H=(h) [192.0.2.5] P=esmtp S=9"
    assert looks_like([f"2026-11-20 10:00:00 {arrival}"]) == "exim"
    helo = "2026-11-20 10:00:00 1xXBAb-0006Ln-34 <= a"
    line = f"{AT} mx out/smtpd[1]: NOQUEUE: reject: RCPT from x[192.0.2.5]: 550 no; helo=<{helo}>"
    assert looks_like([line]) == "postfix"
