"""SPF and DMARC of the messages that Exim reports: DNS quick, cached, dead; never of ours."""

import base64
import time
from pathlib import Path
from typing import Any

import pytest

from dnskit import serving, silent_port
from fix_store import settings_in
from gatepost_policy.config.settings import Dkim, Policy, Settings
from gatepost_policy.mail.facts import Facts, Spf
from gatepost_policy.policyd.attributes import facts
from gatepost_policy.policyd.checks import Checker
from gatepost_policy.policyd.protocol import Reader

ZONE = {
    "example.org": "v=spf1 ip4:192.0.2.7 -all",
    "_dmarc.example.org": "v=DMARC1; p=reject",
}


def reported(settings: Settings, **more: str) -> Facts:
    values = {
        "client_address": "192.0.2.7", "helo": "mx.example.net", "sender": "joe@example.org",
        "from": "Joe <joe@example.org>", "recipients": "user@home.example", **more,
    }  # fmt: skip
    stage = values.pop("stage", "data")
    words = [f"b64.{k}={base64.b64encode(v.encode()).decode()}" for k, v in values.items()]
    line = f"exim stage={stage} id=1abc {' '.join(words)}\n"
    (request,) = Reader(65_536).feed(line.encode())
    return facts(request, 1.0, settings)


def settings(directory: Path, resolver: str, **more: Any) -> Settings:
    return settings_in(
        directory, dkim=Dkim(nameservers=(resolver,)), policy=Policy(timeout_ms=800), **more
    )


def test_the_message_that_exim_reports(tmp_path: Path) -> None:
    with serving(ZONE) as dns:
        used = settings(tmp_path, dns.address)
        checker = Checker(used)
        for again in (False, True):
            running = checker.begin(reported(used))
            assert running is not None
            # The second time everything is known: nothing waits, nothing was asked.
            assert not (again and running.waits)
            got = running.finish()
            assert got.spf is not None and got.dmarc is not None
            assert (got.spf.mail_from.result, got.spf.mail_from.mechanism) == (
                "pass", "ip4:192.0.2.7",
            )  # fmt: skip
            assert (got.dmarc.result, got.dmarc.aligned) == ("pass", ("spf",))
        assert set(dns.asked.values()) == {1}


@pytest.mark.parametrize(
    "more", [{"login": "joe"}, {"stage": "rcpt"}, {"client_address": ""}, {"submission": "yes"}]
)
def test_nothing_is_asked_about_ours_or_one_recipient(tmp_path: Path, more: dict[str, str]) -> None:
    with serving(ZONE) as dns:
        used = settings(tmp_path, dns.address)
        assert Checker(used).begin(reported(used, **more)) is None
        assert not dns.asked


def test_dead_dns_leaves_time_for_the_answer(tmp_path: Path) -> None:
    quiet, place = silent_port()
    with quiet:
        used = settings(tmp_path, place)
        begun = time.monotonic()
        running = Checker(used).begin(reported(used))
        assert running is not None and running.waits
        got = running.finish()
        assert time.monotonic() - begun < 5
    assert isinstance(got.spf, Spf) and got.dmarc is not None
    assert got.spf.mail_from.reason == "dns-timeout"
    assert (got.dmarc.result, got.dmarc.reason) == ("temperror", "dns-timeout")
