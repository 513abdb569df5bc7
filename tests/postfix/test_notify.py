"""A notice through a real Postfix: empty envelope sender and Auto-Submitted arrive as they are."""

import email
import time
from email.message import Message

import pytest

import mta_unpack
from fix_notify import NOW, with_notify
from gatepost_policy.config.settings import Settings
from gatepost_policy.notify import ways
from gatepost_policy.notify.notices import Event, Notice
from gatepost_policy.notify.words import Batch
from postfix_instance import PostfixInstance, Setup

pytestmark = [pytest.mark.postfix, pytest.mark.one_engine, pytest.mark.timeout(300)]

RELAY = {
    "mynetworks": "127.0.0.0/8",
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
}


def test_delivered_and_nobody_gets_a_bounce(postfix_programs: mta_unpack.Programs) -> None:
    loss = Event("loss", "", NOW, NOW, 3, {"since": "a", "until": "b"})
    with PostfixInstance(postfix_programs, Setup(main=RELAY)) as postfix:
        keys = with_notify(
            Settings(), mail_to=["abuse@local.test", "b@fail.test"],
            smtp=f"inet:{postfix.inbound_port}@127.0.0.1",
        ).notify  # fmt: skip
        ways.mail(keys, Batch("x.1-1.mail", (Notice(1, loss),)), NOW)
        (data,) = postfix.collect(1, "inbox")
        mail: Message = email.message_from_bytes(data)
        assert mail["Return-Path"] == "<>"
        assert mail["Auto-Submitted"] == "auto-generated"
        assert mail["Message-ID"].startswith("<gatepost.x.1-1.mail@")
        assert "LOST: 3 records" in mail.get_payload()
        # b@fail.test cannot be delivered: Postfix makes no bounce for an empty sender.
        deadline = time.monotonic() + 30
        while "status=bounced" not in postfix.log_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        while not list(postfix.log_text().splitlines())[-1].endswith("removed"):
            assert time.monotonic() < deadline, postfix.log_text()
            time.sleep(0.05)
        assert "status=bounced" in postfix.log_text() and not postfix.delivered()
