"""What `setup postfix` proposes and puts in, without a Postfix."""

import re
from ipaddress import ip_network
from pathlib import Path

import pytest

from gatepost_milter.cli.setup import SUBMISSION_ENTRY
from gatepost_milter.doctor.postfix_lines import same_socket
from gatepost_milter.doctor.postfix_networks import propose
from gatepost_milter.setup.postfix_plan import SECOND_HOP
from gatepost_policy.system.socket_address import SocketAddress
from postfix_recipes import entries, shipped


def test_docs_have_the_line_that_makes_a_submission_listener() -> None:
    page = Path(__file__).parents[2] / "docs" / "postfix.md"
    assert SUBMISSION_ENTRY in page.read_text()


def test_recipe_of_the_second_hop() -> None:
    """What setup puts in is what conf/postfix/master.cf.proxy shows."""
    entry = entries(shipped("master.cf.proxy"))["hop2in"]
    options = dict(re.findall(r"-o ([a-z_]+)=(.*)", entry))
    assert {**options, **SECOND_HOP} == options
    assert set(options) - set(SECOND_HOP) == {"milter_macro_daemon_name", "smtpd_milters"}


@pytest.mark.parametrize("ours, postfix", [
    ("inet:8894@127.0.0.1", "inet:127.0.0.1:8894"), ("inet:8894@192.0.2.7", "inet:192.0.2.7:8894"),
    ("inet:8894@0.0.0.0", "inet:127.0.0.1:8894"), ("inet6:8894@::", "inet:[::1]:8894"),
    ("inet6:8894@2001:db8::1", "inet:[2001:db8::1]:8894"), ("unix:/run/g", "unix:/run/g"),
])  # fmt: skip
def test_what_postfix_connects_to(ours: str, postfix: str) -> None:
    """Every address of the host is none to connect to; what was put in earlier is still ours."""
    address = SocketAddress.parse(ours)
    assert address.postfix() == postfix
    assert same_socket(postfix, address, "/var/spool/postfix")
    if ours == "inet:8894@0.0.0.0":
        assert same_socket("inet:0.0.0.0:8894", address, "/var/spool/postfix")


def test_only_private_networks_are_proposed() -> None:
    bridge = (ip_network("10.5.0.0/24"),)
    relays = (ip_network("10.7.0.9/32"),)
    got = propose(
        "127.0.0.1/32 [::1]/128 [::ffff:127.0.0.0]/104, 192.168.1.0/24 10.5.0.0/16 10.7.0.0/24 "
        "10.8.0.0/24 !10.8.0.7 [fd00:1::]/64 [2001:db8::]/32 192.0.2.0/24 172.17.0.0/16 "
        "10.0.0.3/32 hash:/etc/postfix/networks $mydomain", relays, bridge,
    )  # fmt: skip
    assert [str(n) for n in got.networks] == [
        "127.0.0.1/32", "::1/128", "127.0.0.0/8", "192.168.1.0/24", "fd00:1::/64",
    ]  # fmt: skip
    assert len(got.left_out) == 7
