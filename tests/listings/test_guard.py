"""The operator's hand: what is refused without --force, what it would have hit, what covers it."""

import time
from ipaddress import ip_network
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from fix_store import message, signature
from from_table import from_table
from gatepost_milter.cli import common
from gatepost_milter.cli.milterctl import cli
from gatepost_policy import ingest, listings, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.own import Own

SETTINGS = from_table(
    Settings,
    {
        "submission": {"networks": ["10.0.0.0/8"], "trusted_relays": ["198.51.100.9/32"]},
        "sender": {"own_domains": ["home.example"], "never_list": ["@packaged", "203.0.113.0/28"]},
    },
)
OWN = Own(domains=("mta.example",), networks=(ip_network("198.51.100.77/32"),))
TRANSLATED = "IPv4 in IPv6, under which no client is known: name the IPv4 address"
REFUSED = [
    ("0.0.0.0/0", "one of our own networks"),
    ("64.0.0.0/5", "too wide"),
    ("2000::/12", "too wide"),
    ("2001::/16", "too wide"),
    ("2002:c000:200::/40", TRANSLATED),
    ("64:ff9b::/96", TRANSLATED),
    ("2001:0:1::/64", TRANSLATED),
    ("127.0.0.1", "this machine, or nobody's address"),
    ("100.64.1.1", "this machine, or nobody's address"),
    ("fd00::1", "this machine, or nobody's address"),
    ("198.51.100.9", "one of our own networks"),
    ("198.51.100.77", "one of our own networks"),
    ("203.0.113.1", "on sender.never_list"),
    ("gmail.com", "on sender.never_list"),
    ("mail.gmail.com", "on sender.never_list"),
    ("co.uk", "a public suffix: everybody below it"),
    ("github.io", "a public suffix: everybody below it"),
    ("x.home.example", "one of our own domains"),
    ("mta.example", "one of our own domains"),
    ("me@home.example", "one of our own domains"),
    ("192.0.2.7", None),
    ("2001:db8:1::/48", None),
    ("spam.example", None),
    ("me.github.io", None),
    ("someone@gmail.com", None),
]


@pytest.mark.parametrize(("name", "why"), REFUSED)
def test_refusal(name: str, why: str | None) -> None:
    assert listings.refusal(listings.identify(name), SETTINGS, OWN) == why


@pytest.mark.parametrize("name", [
    "1.2.3", "1.2.3.4.5", "0192.0.2.1", "spam.example,other.example", "spam..example",
    "-spam.example", "spam-.example", "http://spam.example", "a" * 64 + ".example", "com",
])  # fmt: skip
def test_what_is_nobodys_name(name: str) -> None:
    with pytest.raises(ValueError, match="want an IP address"):
        listings.identify(name)


def test_what_it_would_have_met(engine: Engine, settings: Settings) -> None:
    now = time.time()
    mail = [message(n, at=now - n * 86_400, signatures=(signature(),)) for n in range(40)]
    with store.writing(engine) as connection:
        ingest.ingest(connection, mail, settings, now)
        for name, want in (("192.0.2.7", 30), ("192.0.2.0/24", 30), ("192.0.3.0/24", 0),
                           ("sender.example", 30), ("news@sender.example", 30),
                           ("other.example", 0)):  # fmt: skip
            got = listings.would_have_hit(connection, listings.identify(name), now - 1)
            assert abs(got - want) <= 1, name


@pytest.fixture
def config_file(settings: Settings, tmp_path: Path) -> Path:
    file = tmp_path / "gatepost.toml"
    file.write_text(f'store.url = "{settings.store.url}"\nstore.journal = "{tmp_path}/journal"\n')
    return file


def run(file: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["--config", str(file), *words])
    if isinstance(result.exception, common.Failure):
        return result.exception.code, str(result.exception)
    return result.exit_code, result.output


def test_commands(engine: Engine, config_file: Path) -> None:
    code, said = run(config_file, "sender", "punish", "gmail.com")
    assert code == 2 and "on sender.never_list; --force" in said
    assert run(config_file, "sender", "punish", "gmail.com", "--force")[0] == 0
    code, said = run(config_file, "sender", "punish", "192.0.2.0/24")
    assert code == 0 and "it would have met 0 messages in the last 30 days" in said
    assert "spam.example and below" in run(config_file, "sender", "punish", "spam.example")[1]
    for command in ("forgive", "show"):
        assert (
            "covered by the listing of 192.0.2.0/24"
            in run(config_file, "sender", command, "192.0.2.9")[1]
        )
        assert (
            "covered by the listing of spam.example"
            in run(config_file, "sender", command, "a.spam.example")[1]
        )
    assert "covered" not in run(config_file, "sender", "forgive", "192.0.2.0/24")[1]
    assert "covered" not in run(config_file, "sender", "show", "192.0.2.9")[1]
