"""Spellings of a Postfix configuration that are rare and valid: what the doctor makes of them.

In memory, as postconf would have told them; tests/doctor/test_postfix.py asks the real one.
"""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import mta_unpack
from gatepost_milter.doctor import postfix_config, postfix_lines, postfix_networks, postfix_tables
from gatepost_milter.doctor.finding import Finding, Live
from gatepost_milter.doctor.postfix import Checker
from gatepost_milter.doctor.postfix_config import PostfixConfig, Service
from gatepost_milter.setup import postfix_plan
from gatepost_policy.config.settings import Settings
from postfix_in_memory import ASKED, OURS, config
from postfix_instance import PostfixInstance, Setup


def found(made: PostfixConfig) -> list[Finding]:
    return list(Checker(made, Settings()).settings_findings())


def codes(made: PostfixConfig) -> list[str]:
    return [f.code for f in found(made)]


@pytest.mark.parametrize("made", [
    config(),
    config({"my_name": "ORIGINATING"}, {"milter_macro_daemon_name": "$my_name"}),
    config({"ours": "yes"}, {"milter_macro_daemon_name": "${ours?{ORIGINATING}:{smtp}}"}),
    config({"ours": "yes"}, {"milter_macro_daemon_name": "${ours?ORIGINATING}"}),
    config({}, {"milter_macro_daemon_name": "${never_set:ORIGINATING}"}),
    config({"smtpd_recipient_restrictions": f"Permit_MyNetworks, {ASKED.replace('DUNNO', 'dunno')}"}
           ),
    config({"smtpd_recipient_restrictions": "permit_mynetworks, gp", "gp": ASKED,
            "smtpd_restriction_classes": "other, gp"}),
    # Where users log in on port 25 as well, their mail waits and does not leave unscrubbed.
    config({"smtpd_sasl_auth_enable": "Yes", "smtpd_milters": "inet:127.0.0.1:8894"}),
    config({}, {}, Service("pre-cleanup", "unix", "n", "cleanup", {"virtual_alias_maps": ""}),
           pickup=Service("pickup", "fifo", "n", "pickup",
                          {"cleanup_service_name": "pre-cleanup"})),
])  # fmt: skip
def test_odd_and_right(made: PostfixConfig) -> None:
    assert codes(made) == []
    assert postfix_plan.plan(made, Settings()).edits == ()


@pytest.mark.parametrize("code, made", [
    ("daemon-name", config({}, {}, Service("2587", "inet", "n", "smtpd",
                                           {"smtpd_sasl_auth_enable": "YES"}))),
    ("stranger-name", config({}, {}, Service("192.0.2.1:25", "inet", "n", "smtpd",
                                             {"milter_macro_daemon_name": "ORIGINATING"}))),
    ("default-action", config({"x": "ORIGINATING"}, {}, Service(
        "2999", "inet", "n", "smtpd", {"milter_macro_daemon_name": "$x"}))),
    ("inbound-action", config({"smtpd_milters": "inet:127.0.0.1:8894"})),
    ("inbound-action", config({"smtpd_milters": OURS.replace("accept", "reject")})),
    ("inbound-action", config({"smtpd_milters": OURS.replace("accept", "quarantine")})),
    ("inbound-action", config({"smtpd_milters": OURS.replace("accept", "reject"),
                               "smtpd_sasl_auth_enable": "yes"})),
    ("login-port", config({"smtpd_sasl_auth_enable": "YES"})),
    ("rcpt-macros", config({"milter_rcpt_macros": "i {rcpt_addr}"})),
    ("policy-order", config({"smtpd_recipient_restrictions": f"Permit_Auth_Destination, {ASKED}"})),
    ("policy-order", config({"smtpd_recipient_restrictions": "reject_unlisted_recipient, gp",
                             "smtpd_restriction_classes": "gp", "gp": ASKED})),
    ("policy-default", config({"smtpd_end_of_data_restrictions":
                               "check_policy_service inet:127.0.0.1:10040"})),
    ("policy-default", config({"smtpd_recipient_restrictions": "gp", "gp": ASKED.replace(
        "DUNNO", "451"), "smtpd_restriction_classes": "gp"})),
    ("no-milters", config(pickup=Service("pickup", "fifo", "n", "pickup",
                                         {"receive_override_options": "no_milters"}))),
    ("non-smtpd-milters", config({}, {}, Service("pre", "unix", "n", "cleanup",
                                                 {"non_smtpd_milters": ""}),
                                 pickup=Service("pickup", "unix", "n", "pickup",
                                                {"cleanup_service_name": "pre"}))),
])  # fmt: skip
def test_odd_and_wrong(code: str, made: PostfixConfig) -> None:
    """Found, and what the line says mends it."""
    assert code in codes(made)
    for _ in range(4):
        for finding in found(made):
            made = made.changed(finding.edits)
    assert codes(made) == []


def test_no_restriction_goes() -> None:
    """A refusal of relaying without permits before it gets them, and stays."""
    before = "permit_mynetworks, reject_rbl_client bl.example, reject_unauth_destination"
    made = config({"smtpd_recipient_restrictions": before, "smtpd_relay_restrictions":
                   "permit_mynetworks permit_sasl_authenticated defer_unauth_destination"}
                  )  # fmt: skip
    after = made.changed(postfix_plan.plan(made, Settings()).edits)
    words = [w.text for w in postfix_lines.words(after.get("smtpd_recipient_restrictions"))]
    assert [w for w in words if w in before] == before.replace(",", "").split()
    assert words.index("permit_sasl_authenticated") < words.index("reject_unauth_destination")
    assert codes(after) == []


def test_mynetworks_in_files(tmp_path: Path) -> None:
    """A LAN in a file is proposed, a public network there is found, and its line takes it out."""
    flat, table = tmp_path / "networks", tmp_path / "networks.cidr"
    flat.write_text("# ours\n127.0.0.0/8, 192.168.9.0/24 203.0.113.0/24\n")
    table.write_text("198.51.100.0/24 OK\n10.1.0.0/16 ok\n")
    made = config({"mynetworks": f"{flat} cidr:{table}"})
    live = Live(made, Settings())
    proposed = [str(n) for n in postfix_networks.for_postfix(live).networks]
    assert proposed == ["127.0.0.0/8", "192.168.9.0/24", "10.1.0.0/16"]
    findings = list(postfix_networks.strangers(live))
    assert [f.code for f in findings] == ["public-networks"] * 2
    for finding in findings:
        subprocess.run(["sh", "-c", finding.change], check=True)
    assert list(postfix_networks.strangers(live)) == []
    assert flat.read_text() == "# ours\n127.0.0.0/8, 192.168.9.0/24 \n"
    assert table.read_text() == "10.1.0.0/16 ok\n"
    everybody = Live(config({"mynetworks": "127.0.0.0/8 static:all"}), Settings())
    (finding,) = postfix_networks.strangers(everybody)
    assert finding.edits[0].value == "mynetworks = 127.0.0.0/8"


@pytest.mark.postfix
def test_header_checks_that_only_log(postfix_programs: mta_unpack.Programs) -> None:
    """Asked of the real postmap."""
    actions = {"WARN noted": False, "info x": False, "DUNNO": False,
               "IGNORE": True, "PREPEND X-A: b": True, "STRIP": True}  # fmt: skip
    with PostfixInstance(postfix_programs, Setup(sasl=False), run=False) as made:
        live = Live(postfix_config.read(made.etc, made.commands_for_check()), Settings())
        for action, changes in actions.items():
            (made.etc / "checks").write_text(f"/^Received:.*/ {action}\n")
            touches = postfix_tables.touches_received(live, f"regexp:{made.etc}/checks")
            assert touches is changes, action
        # Whatever a transport is called.
        (made.etc / "checks").write_text("/^Received:/ IGNORE\n")
        slow = {"smtp_header_checks": f"regexp:{made.etc}/checks"}
        services = (*live.config.services, Service("slow", "unix", "n", "smtp", slow))
        live = Live(replace(live.config, services=services), Settings())
        assert [f.code for f in postfix_tables.header_checks(live)] == ["header-checks"]
        # Tables that are written in main.cf itself; the others stay.
        stays = "regexp:{{/^X-None:/ IGNORE}}"
        made_config = postfix_config.read(made.etc, made.commands_for_check())
        value = f"regexp:{{{{/^Received:/ IGNORE}}}}, {stays}"
        made_config = made_config.changed(made_config.set("header_checks", value))
        (finding,) = postfix_tables.header_checks(Live(made_config, Settings()))
        assert made_config.changed(finding.edits).get("header_checks") == stays


@pytest.mark.parametrize("value, comes", [
    ("$a-$(a)-${a}", "1-1-1"), ("${a?yes}${b?no}${b:none}", "yesnone"),
    ("${b?{x}:{${a?{y}:{z}}}}", "y"), ("${{1} == {1} ? x}", "${{1} == {1} ? x}"), ("${a", "1"),
])  # fmt: skip
def test_conditional_expansion(value: str, comes: str) -> None:
    assert postfix_lines.expanded(value, {"a": "1", "b": ""}.__getitem__) == comes


@pytest.mark.parametrize(("value", "wide", "left"), [
    ("0.0.0.0/0", "0.0.0.0/0", ""), ("127.0.0.0/8 static:all", "static:all", "127.0.0.0/8"),
    ("203.0.113.4, 198.51.0.0/16 [2000::]/3", "198.51.0.0/16, [2000::]/3", "203.0.113.4"),
    ("127.0.0.0/8 10.0.0.0/8 203.0.113.0/28 [2001:db8:1::]/64 hash:/x", "", ""), ("", "", ""),
    ("!0.0.0.0/0 192.168.0.0/16", "", ""),
])  # fmt: skip
def test_who_may_name_any_client(value: str, wide: str, left: str) -> None:
    """XCLIENT from everywhere: what gatepost judges and lists is what the sender says."""
    made = config({"smtpd_authorized_xclient_hosts": value})
    got = list(postfix_networks.disguised(Live(made, Settings())))
    assert [f.problem.partition(": whoever")[0] for f in got] == [wide] * (wide != "")
    for finding in got:
        assert finding.code == "client-forged"
        mended = made.changed(finding.edits)
        assert mended.get("smtpd_authorized_xclient_hosts") == left
        assert list(postfix_networks.disguised(Live(mended, Settings()))) == []


@pytest.mark.parametrize(("value", "short"), [
    ("3s", True), ("5", True), ("0", True), ("6", False), ("300s", False), ("2m", False),
    ("1h", False), ("1d", False), ("never", False),
])  # fmt: skip
def test_postfix_waits_as_long_as_gatepost_may_need(value: str, short: bool) -> None:
    """Five seconds for DNS (dkim.message_timeout_ms); after Postfix has given up a message passes
    with its forged results in it."""
    made = config({"milter_content_timeout": value})
    got = [f for f in found(made) if f.code == "content-timeout"]
    assert bool(got) is short
    for finding in got:
        assert [f for f in found(made.changed(finding.edits)) if f.code == finding.code] == []
