"""Is gatepost-policyd reached, does its answer count, what is gatepost told: one fault each.

In memory; what tables answer is asked of the real postmap.
"""

from dataclasses import replace

import pytest

import mta_unpack
from gatepost_milter.doctor import postfix_around
from gatepost_milter.doctor.finding import Finding, Live
from gatepost_milter.doctor.postfix import Checker
from gatepost_milter.doctor.postfix_config import PostfixConfig, Service
from gatepost_policy.config.settings import Settings
from postfix_in_memory import ASKED, OURS, config
from postfix_instance import PostfixInstance, Setup

RECIPIENT, RELAY = "smtpd_recipient_restrictions", "smtpd_relay_restrictions"
CLASS = {"smtpd_restriction_classes": "gp", "gp": ASKED}
END = {"milter_end_of_data_macros": "i", "milter_end_of_header_macros": "i",
       "milter_data_macros": "i"}  # fmt: skip
NONE = dict.fromkeys(END, "")
XFORWARD = {"smtpd_authorized_xforward_hosts": "127.0.0.0/8", "mynetworks": "127.0.0.0/8"}


def found(made: PostfixConfig) -> list[Finding]:
    live = Live(made, Settings())
    return [*Checker(made, Settings()).settings_findings(), *postfix_around.completion(live)]


def mended(made: PostfixConfig) -> PostfixConfig:
    """With what each finding's line says."""
    for _ in range(4):
        for finding in found(made):
            assert finding.edits and finding.change, finding
            made = made.changed(finding.edits)
    return made


def smtp(**overrides: str) -> Service:
    return Service("192.0.2.1:25", "inet", "n", "smtpd", overrides)


@pytest.mark.parametrize(("code", "made"), [
    ("policy-early", config({"smtpd_delay_reject": "no", RECIPIENT: "permit_mynetworks",
                             "smtpd_client_restrictions": f"permit_mynetworks, {ASKED}"})),
    ("policy-early", config({**CLASS, RECIPIENT: "", "smtpd_delay_reject": "No",
                             "smtpd_sender_restrictions": "reject_unknown_sender_domain, gp"})),
    ("policy-early", config({RECIPIENT: ASKED}, {}, smtp(
        smtpd_delay_reject="no", smtpd_helo_restrictions=ASKED, smtpd_recipient_restrictions=""))),
    ("policy-warns", config({RECIPIENT: f"permit_mynetworks, warn_if_reject, {ASKED}"})),
    ("policy-warns", config({**CLASS, RECIPIENT: "Warn_If_Reject gp"})),
    ("policy-warns", config({**CLASS, RECIPIENT: "gp", "gp": f"warn_if_reject {ASKED}"})),
    ("policy-order", config({RECIPIENT: f"friends, {ASKED}", "friends": "permit",
                             "smtpd_restriction_classes": "friends"})),
    ("end-macros", config(NONE)),
    ("end-macros", config(END, {**NONE, "milter_end_of_data_macros": "{x}"})),
    ("macro-defaults", config({"milter_macro_defaults": "auth_authen=nobody"})),
    ("macro-defaults", config({"milter_macro_defaults": "auth_type=x, { {auth_authen} = a }"})),
    ("soft-bounce", config({"soft_bounce": "yes"})),
    ("soft-bounce", config({}, {}, smtp(soft_bounce="Yes"))),
    ("chain-order", config({"non_smtpd_milters": f"inet:127.0.0.1:8891, {OURS}"})),
    ("local-action", config({"non_smtpd_milters": OURS.replace("accept", "reject")})),
    ("second-pass", config({}, {}, Service("127.0.0.1:10025", "inet", "n", "smtpd", XFORWARD))),
    ("header-completion", config({}, {}, smtp(remote_header_rewrite_domain="domain.invalid"))),
    ("header-completion", config({}, {}, smtp(local_header_rewrite_clients="static:all"))),
    ("header-completion", config({}, {}, Service(
        "pre", "unix", "n", "cleanup", {"always_add_missing_headers": "yes"}))),
    ("drop-headers", config({"message_drop_headers": "bcc, Received, return-path"})),
    ("client-hidden", config({"smtpd_hide_client_session": "yes"})),
    ("client-hidden", config({"smtpd_hide_client_session": "no"}, {},
                             smtp(smtpd_hide_client_session="Yes"))),
    ("content-timeout", config({"milter_content_timeout": "300s",
                                "smtpd_milters": OURS.replace(" }", ", content_timeout=2s }")})),
    ("content-timeout", config({}, {}, smtp(smtpd_milters=OURS.replace(
        " }", ",content_timeout=5 }")))),
    # smtpd ends at its start with "unknown option" or "bad time value" (3.7.11).
    ("milter-option", config({"smtpd_milters": OURS.replace(
        " }", ", default-action=accept }")})),
    ("milter-option", config({}, {}, smtp(smtpd_milters=OURS.replace(
        " }", ", command_timeout = soon }")))),
    ("milter-option", config({}, {"smtpd_milters": OURS.replace(
        "accept", "tempfail").replace(" }", ", conect_timeout=9s }")})),
    ("policy-option", config({RECIPIENT: ASKED.replace(" }", ", timout=5s }")})),
    ("policy-option", config({"smtpd_end_of_data_restrictions": ASKED.replace(
        " }", ", timeout=soon }")})),
    ("policy-timeout", config({RECIPIENT: ASKED.replace(" }", ", timeout=1000s }")})),
    ("policy-timeout", config({RECIPIENT: ASKED, "smtpd_policy_service_timeout": "1h"})),
])  # fmt: skip
def test_found_and_mended(code: str, made: PostfixConfig) -> None:
    assert {f.code for f in found(made)} == {code}
    assert found(mended(made)) == []


@pytest.mark.parametrize("made", [
    config({"smtpd_delay_reject": "no"}),
    config({"smtpd_delay_reject": "no", "smtpd_client_restrictions": ASKED}),
    config({RECIPIENT: f"permit_mynetworks, {ASKED}, warn_if_reject reject_unknown_client_hostname"}
           ),
    config({RECIPIENT: f"warn_if_reject, reject_rbl_client bl.example, {ASKED}"}),
    config({**NONE, "milter_data_macros": "{i}"}), config(END),
    config({"milter_macro_defaults": "auth_type=none, {cert_issuer}=nobody"}),
    config({}, {"soft_bounce": "yes", "always_add_missing_headers": "yes"}),
    config({"message_drop_headers": "bcc, content-length, resent-bcc, return-path"}),
    config({"smtpd_hide_client_session": "no"}, {"smtpd_hide_client_session": "yes"}),
    config({"smtpd_milters": OURS.replace(" }", ", content_timeout=200s }")}),
    config({"non_smtpd_milters": OURS.replace("accept", "tempfail")}),
    config({"smtpd_milters": OURS.replace(" }", ", { protocol = 6 } }")}),
    config({RECIPIENT: ASKED.replace(" }", ", policy_context=mx, max_idle=1h, try_limit=2 }")}),
])  # fmt: skip
def test_right(made: PostfixConfig) -> None:
    assert found(made) == []


# A list that asks us, with a table before us: does it let strangers through?
TABLES = (
    (f"check_client_access static:OK, {ASKED}", "", True),
    (f"permit_mynetworks, check_helo_access static:{{permit}}, {ASKED}", "", True),
    (f"check_client_access cidr:@, {ASKED}", "192.0.2.0/24 REJECT\n0.0.0.0/0 OK\n", True),
    (f"check_client_access cidr:@, {ASKED}", "::/0 250\n", True),
    (f"check_sender_access regexp:@, {ASKED}", "/@bad.example$/ REJECT\n/./ Permit\n", True),
    (f"check_recipient_access texthash:@, {ASKED}", "local.test OK\n", True),
    (f"check_recipient_access inline:{{local.test=OK}}, {ASKED}", "", True),
    (f"check_recipient_access static:friends, {ASKED}", "", True),
    (f"check_client_access cidr:@, {ASKED}", "192.0.2.0/24 OK\n2001:db8:5::/48 OK\n", False),
    (f"check_recipient_access texthash:@, {ASKED}", "postmaster@local.test OK\n", False),
    (f"check_sender_access regexp:@, {ASKED}", "/@friend.example$/ OK\n/./ DUNNO\n", False),
    (f"check_sender_access static:REJECT_x, {ASKED}", "", False),
    (f"{ASKED}, check_client_access static:OK", "", False),
)


@pytest.mark.postfix
def test_what_tables_let_through(postfix_programs: mta_unpack.Programs) -> None:
    with PostfixInstance(postfix_programs, Setup(sasl=False), run=False) as made:
        classes = {"smtpd_restriction_classes": "friends", "friends": "permit_auth_destination",
                   "mydestination": "local.test, localhost"}  # fmt: skip
        real = replace(config(classes), commands=made.commands_for_check(), directory=made.etc)
        for value, text, passes in TABLES:
            (made.etc / "table").write_text(text)
            live = real.changed(real.set(RECIPIENT, value.replace("@", f"{made.etc}/table", 1)))
            assert [f.code for f in found(live)] == ["policy-order"] * passes, value
            assert found(mended(live)) == [], value
        # Of the list that decides about relaying, a table of clients counts; one of recipients does
        # not, because what is here is not relayed.
        (made.etc / "table").write_text("local.test OK\n")
        local = f"check_recipient_access texthash:{made.etc}/table"
        for table, opens in (
            ("check_client_access static:OK", True),
            ("permit", True),
            ("check_client_access inline:{192.0.2.7=OK}", False),
            (local, False),
        ):
            value = f"permit_mynetworks, {table}, reject_unauth_destination"
            live = real.changed(real.set(RELAY, value))
            assert [f.code for f in found(live)] == ["open-relay"] * opens, table
            assert found(mended(live)) == []
