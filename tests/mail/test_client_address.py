"""A client's address: the forms it comes in, and the networks it lies in."""

from ipaddress import ip_address, ip_network

import pytest

from gatepost_policy.mail import client_address
from gatepost_policy.mail.facts import Family, client_prefix
from gatepost_policy.mail.index_key import prefix_of


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("[192.0.2.1]", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("IPv6:::ffff:c000:201", "192.0.2.1"),
        ("[IPv6:2001:db8::1]", "2001:db8::1"),
        ("ipv6:2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", None),
        ("unknown", None),
        ("192.0.2.1.5", None),
        ("192.0.2.0/24", None),
        ("192.0.2.01", None),
        ("192.0.2", None),
        ("0xc0000201", None),
        ("192.0.2.1\n", None),
        ("192.0.2.1\0.example", None),
        ("192.0.2.\u0661", None),
        ("192.0.2.\udcb9", None),
    ],
)
def test_parse(text: str, want: str | None) -> None:
    """Every form that an MTA writes; None for the rest."""
    got = client_address.parse(text)
    assert (None if got is None else str(got)) == want


def test_within() -> None:
    """A mapped address is in the IPv4 network; nothing is in a network of the other version."""
    nets = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
    assert client_address.within(client_address.parse("::ffff:192.0.2.1"), nets)
    assert client_address.within(client_address.parse("2001:db8:1::"), nets)
    assert not client_address.within(client_address.parse("198.51.100.1"), nets)
    assert not client_address.within(None, nets)
    assert not client_address.within(client_address.parse("::"), (ip_network("0.0.0.0/0"),))


def test_networks_and_families() -> None:
    """Only a mapped network of /96 or longer is an IPv4 one."""
    assert str(client_address.unmapped_network(ip_network("::ffff:10.0.0.0/104"))) == "10.0.0.0/8"
    assert str(client_address.unmapped_network(ip_network("2001:db8::/96"))) == "2001:db8::/96"
    assert str(client_address.unmapped_network(ip_network("::/0"))) == "::/0"
    families = [
        client_address.family(client_address.parse(t)) for t in ("::ffff:1.2.3.4", "::", "")
    ]
    assert families == [Family.IPV4, Family.IPV6, Family.UNKNOWN]


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0", "9.10.99.100", "199.200.249.255", "2001:db8::1", "::ffff:192.0.2.1",
     "64:ff9b::c000:201", "256.0.0.1", "01.2.3.4", "1.2.3", "1.2.3.4.5", "1.2.3.4\n", "١.2.3.4",
     " 1.2.3.4", "1.2.3.4/32", ""],
)  # fmt: skip
def test_prefix_is_what_the_library_says(text: str) -> None:
    """The short way for IPv4 takes what `ip_address` takes, and nothing else."""
    try:
        want = client_prefix(ip_address(text))
    except ValueError:
        with pytest.raises(ValueError, match="IP"):
            prefix_of(text)
    else:
        assert prefix_of(text) == want
