"""`milterctl check` asks the resolvers what it says of them."""

import dns.flags
import dns.message
import pytest

import dnskit
from dnskit import serving, silent_port
from gatepost_milter.doctor import resolvers
from gatepost_policy.config.settings import Dkim, Settings


def seen(address: str) -> tuple[str, str | None]:
    (finding,) = resolvers.examine(Settings(dkim=Dkim(nameservers=(address,))))
    assert finding.what == "dkim.nameservers"
    return finding.state, finding.problem


def test_what_a_resolver_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({"": "nodata"}) as server:
        state, problem = seen(server.address)
        assert problem is None
        assert state == f"{server.address} answers; EDNS, TCP, does not validate DNSSEC"
        server.edns = False
        assert "no EDNS (it is asked without), TCP" in seen(server.address)[0]


def test_a_resolver_that_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dnskit.Server.reply

    def validating(self: dnskit.Server, wire: bytes, tcp: bool) -> bytes | None:
        answer = plain(self, wire, tcp)
        assert answer is not None
        return answer[:3] + bytes([answer[3] | (dns.flags.AD & 0xFF)]) + answer[4:]

    monkeypatch.setattr(dnskit.Server, "reply", validating)
    with serving({"": "nodata"}) as server:
        assert seen(server.address)[0].endswith("EDNS, TCP, validates DNSSEC")


def test_a_resolver_without_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dnskit.Server.reply
    monkeypatch.setattr(
        dnskit.Server, "reply", lambda self, wire, tcp: None if tcp else plain(self, wire, tcp)
    )
    with serving({"": "nodata"}) as server:
        assert "EDNS, no TCP (keys that do not fit one packet" in seen(server.address)[0]


def test_a_dead_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolvers, "SECONDS", 0.3)
    quiet, address = silent_port()
    with quiet:
        state, problem = seen(address)
    assert state == address and problem is not None and "does not answer" in problem
