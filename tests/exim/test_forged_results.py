"""Exim on the shipped configuration: results in our name go, and its own stand on top."""

from collections.abc import Iterator

import pytest

import mta_unpack
from exim_instance import EximInstance

pytestmark = [pytest.mark.exim, pytest.mark.timeout(200)]
OURS = "mx.local.test"
SPELLINGS = (
    f"{OURS}; dkim=pass header.d=bank.example",
    '"mx".local.test; dkim=pass header.d=bank.example',
    "mx .local.test; dkim=pass header.d=bank.example",
    "mx.\n local.test; dkim=pass header.d=bank.example",
    "m\\x).LOCAL.test; dkim=pass header.d=bank.example",
    "mx.(c (d))local.test; dkim=pass header.d=bank.example",
    "mx.(a(b(c(d))))local.test; dkim=pass header.d=bank.example",
    "(" * 3000 + ")" * 3000 + "mx.(a(b(c)))local.test; dkim=pass header.d=bank.example",
    '"(x" mx.(c)()local.test); dkim=pass header.d=bank.example',  # OpenDMARC skips the first word
    "\\(x mx.)local.)(c)test 1 (c); dkim=pass header.d=bank.example",
    "=?utf-8?q?mx=2Elocal=2Etest?=; dkim=pass header.d=bank.example",
    "mx\u3002local\uff0etest; dkim=pass header.d=bank.example",  # IDNA reads these as dots
    "mx.=?utf-8?Q?=6C=6F\n  =63=61=6C?=.test; dkim=pass header.d=bank.example",
    "mx.loca=?us-ascii \n ?B?bA==?=.test; dkim=pass header.d=bank.example",
    "mx.\u200dlocal.test; dkim=pass header.d=bank.example",
    "\uff4dx.\n local.test 1; dkim=pass header.d=bank.example",
)
OTHER = "other.example; dkim=pass header.d=bank.example"


@pytest.fixture(scope="module")
def exim(exim_programs: mta_unpack.Programs) -> Iterator[EximInstance]:
    with EximInstance(exim_programs, 9) as running:
        yield running


def delivered(exim: EximInstance, *values: str, name: str = "Authentication-Results") -> str:
    fields = "".join(f"{name}: {value}\n" for value in values)
    text = fields + "From: service@bank.example\nTo: bob@local.test\nSubject: x\n\nHello\n"
    sent = exim.inbound().send(text.encode(), "x@example.net", ["bob@local.test"])
    assert sent.code == 250, (sent, exim.log_text())
    (data,) = exim.collect()
    return data.decode(errors="replace").partition("\n\n")[0]


@pytest.mark.parametrize("value", SPELLINGS)
def test_forged_results_go_and_ours_are_on_top(exim: EximInstance, value: str) -> None:
    header = delivered(exim, OTHER, value)
    assert "bank.example" not in header.replace("service@bank.example", "")
    assert header.lower().count("authentication-results:") == 1
    assert f"Authentication-Results: {OURS};" in header


@pytest.mark.parametrize("name", ["Authentication-Results ", "AUTHENTICATION-RESULTS\t"])
def test_a_blank_before_the_colon_hides_nothing(exim: EximInstance, name: str) -> None:
    """Readers take it for the field that it is (RFC 5322 4.5); Exim's $h_ does not."""
    header = delivered(exim, OTHER, SPELLINGS[0], name=name)
    assert "bank.example" not in header.replace("service@bank.example", "")
    assert f"Authentication-Results: {OURS};" in header
    assert "dkim=pass" in delivered(exim, OTHER, name=name)


@pytest.mark.parametrize("value", SPELLINGS)
def test_no_program_on_this_host_speaks_in_our_name(exim: EximInstance, value: str) -> None:
    """A web form may write any field (sendmail(1), acl_not_smtp)."""
    told = f"Authentication-Results: {value}\nFrom: service@bank.example\nSubject: x\n\nHello\n"
    exim.run("-f", "www@local.test", "bob@local.test", stdin=told.encode())
    (data,) = exim.collect()
    assert b"authentication-results" not in data.lower(), data.decode(errors="replace")


def test_other_hosts_keep_theirs(exim: EximInstance) -> None:
    header = delivered(exim, f'{OTHER} reason="gr\u00fc\u00df dich =?utf-8?q?x"')
    assert f"Authentication-Results: {OTHER}" in header
    assert header.count("Authentication-Results:") == 2
