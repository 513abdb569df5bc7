"""The SMTP server that stands in for Postfix: bytes arrive as sent, XCLIENT and AUTH are told."""

import smtplib
from collections.abc import Callable

import pytest

from fix_harness import Probe
from gatepost_milter.mta import smtp_server
from gatepost_milter.mta.envelope import Envelope

pytestmark = [pytest.mark.slow, pytest.mark.milter]


def _smtp(port: int) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", port, timeout=100)
    client.ehlo("laptop.example")
    return client


def test_large_lines_and_messages_arrive_as_they_are(probes: Callable[..., Probe]) -> None:
    front = smtp_server.Front(probes("leadspc", "noreply").socket)
    line = b"X-Long: " + b"a" * 59_000 + b"\r\n"
    body = b"..dot\r\n.\r\nlone\rCR\r\n" + b"y" * 60_000 + b"\r\n" + (b"z" * 998 + b"\r\n") * 50_000
    with smtp_server.serving(front) as port, _smtp(port) as client:
        client.sendmail("a@x.example", ["b@y.example"], line + b"\r\n" + body)
    (result,) = front.results
    assert len(body) > 50_000_000
    assert result.message.endswith(line + b"\r\n" + body)


def test_xclient_and_auth(probes: Callable[..., Probe]) -> None:
    probe = probes("leadspc")
    front = smtp_server.Front(probe.socket, Envelope(rejected=("gone@y.example",)))
    with smtp_server.serving(front) as port, _smtp(port) as client:
        assert "xclient" in client.esmtp_features
        assert client.docmd("XCLIENT FOO=bar")[0] == 501
        assert client.docmd("XCLIENT NAME=mail.example ADDR=IPV6:2001:db8::7 PORT=77")[0] == 220
        client.ehlo("other.example")
        client.login("alice", "any password")
        client.mail("a@x.example")
        assert client.rcpt("refuse@y.example") == (550, b"5.7.1 Command rejected")
        assert client.rcpt("gone@y.example")[0] == 550
        assert client.rcpt("b@y.example")[0] == 250
        assert client.data(b"Subject: x\r\n\r\nx")[0] == 250
        client.rset()
        assert client.mail("tempfail@x.example")[0] == 451
    events = {e["event"]: e for e in probe.events()}
    assert events["connect"]["host"] == "mail.example"
    assert events["connect"]["address"][:2] == ["2001:db8::7", 77]
    assert events["helo"]["name"] == "other.example"
    assert [r.stage for r in front.results] == ["end", "mail"]
    assert b"with ESMTPA id" in front.results[0].message


def test_without_a_milter(tmp_path: object) -> None:
    front = smtp_server.Front(f"unix:{tmp_path}/none.sock")
    with smtp_server.serving(front) as port, _smtp(port) as client:
        assert client.mail("a@x.example")[0] == 451
