"""Whose address it is: IPv4 inside IPv6, and addresses that are nobody's."""

from ipaddress import ip_address

import pytest

from gatepost_policy.mail.facts import client_prefix
from gatepost_policy.mail.real_address import names_nobody, real

# address, whose it is, does it name nobody
ADDRESSES = [
    ("192.0.2.5", "192.0.2.5/32", False),
    ("::ffff:192.0.2.5", "192.0.2.5/32", False),
    ("64:ff9b::c000:205", "192.0.2.5/32", False),
    ("64:ff9b:1:ffff::c000:205", "192.0.2.5/32", False),
    ("2002:c000:205:1::9", "192.0.2.5/32", False),
    ("64:ff9b::7f00:1", "127.0.0.1/32", True),
    ("2002:a00:1::1", "10.0.0.1/32", True),
    ("2001:0:c000:201::1", "2001:0:c000:201::/64", True),
    ("2001:db8::1", "2001:db8::/64", False),
    ("fd00::1", "fd00::/64", True),
    ("fe80::1", "fe80::/64", True),
    ("::1", "::/64", True),
    ("127.7.7.7", "127.7.7.7/32", True),
    ("10.1.2.3", "10.1.2.3/32", True),
    ("172.31.0.1", "172.31.0.1/32", True),
    ("172.32.0.1", "172.32.0.1/32", False),
    ("192.168.0.1", "192.168.0.1/32", True),
    ("169.254.1.1", "169.254.1.1/32", True),
    ("100.64.0.1", "100.64.0.1/32", True),
    ("100.128.0.1", "100.128.0.1/32", False),
    ("192.88.99.1", "192.88.99.1/32", True),
    ("192.88.98.1", "192.88.98.1/32", False),
    ("192.175.48.6", "192.175.48.6/32", True),
    ("2001:20::1", "2001:20::/64", True),
    ("2001:3f:ffff::1", "2001:3f:ffff::/64", True),
    ("2001:200::1", "2001:200::/64", False),
    ("5f00::1", "5f00::/64", True),
    ("2a00:1:2:3:0:5efe:c000:205", "2a00:1:2:3::/64", False),  # ISATAP (RFC 5214)
    ("fe80::5efe:a00:1", "fe80::/64", True),
]


@pytest.mark.parametrize(("text", "prefix", "nobody"), ADDRESSES)
def test_whose(text: str, prefix: str, nobody: bool) -> None:
    address = ip_address(text)
    assert (client_prefix(address), names_nobody(address)) == (prefix, nobody)


def test_what_is_real_stays() -> None:
    assert real(ip_address("2001:db8::1")) == ip_address("2001:db8::1")
