"""Our own Received on a real Postfix that is not set up as the recipes say: swept or refused.

Nothing is called scrubbed because a configuration says so. Each row runs with gatepost, where
nothing of the client may be left, and without, where the client must be found.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

import mta_modes
import mta_unpack
from canary import Canaries
from daemons import Daemon
from mta_modes import BASE_CONFIG, TALKATIVE
from postfix_instance import LOGIN, PostfixInstance, Setup, version

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

MTA = '[submission]\nown_received = "mta"\n'


@dataclass(frozen=True, slots=True)
class Row:
    """What gatepost.toml and main.cf say, and the daemon to which it is sent."""

    name: str
    config: str
    main: dict[str, str] = field(default_factory=dict)
    submission: dict[str, str] = field(default_factory=dict)
    code: int = 250


ROWS = (
    Row("own mail_name", "", {"mail_name": "Mailserver"}),
    Row("mail_name of three words", "", {"mail_name": "Mail of Example"}),
    Row("mail_name on the listener only", "", submission={"mail_name": "Mailserver"}),
    Row("mta and own mail_name", MTA, {"mail_name": "Mailserver"}),
    Row("mta and nothing that hides", MTA),
    Row("mta, own mail_name and unknown release", MTA,
        {"mail_name": "Mailserver", "mail_version": "4.0.1"}, code=451),
    Row("no name, as Sendmail sends", "", {"mail_name": "8.17.1.9", "mail_version": "x"}, code=451),
    Row("mta, no name", MTA, {"mail_name": "8.17.1.9", "mail_version": "x"}, code=451),
)  # fmt: skip


@pytest.fixture(scope="module")
def daemons(milter_engine: str) -> Iterator[dict[str, Daemon]]:
    with Daemon(BASE_CONFIG) as milter, Daemon(BASE_CONFIG + MTA) as mta:
        yield {"": milter, MTA: mta}


@pytest.fixture(scope="module")
def postfix(postfix_programs: mta_unpack.Programs) -> Iterator[PostfixInstance]:
    with PostfixInstance(postfix_programs, Setup(main=TALKATIVE)) as running:
        yield running


def send(postfix: PostfixInstance) -> tuple[Canaries, int]:
    canaries = Canaries.fresh("ipv4", LOGIN)
    client = postfix.submission(helo=canaries.helo, xclient=canaries.xclient)
    sent = client.send(mta_modes.message(canaries), "alice@local.test", ["bob@local.test"])
    return canaries, sent.code


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_row(row: Row, daemons: dict[str, Daemon], postfix: PostfixInstance) -> None:
    daemon = daemons[row.config]
    main = dict(row.main)
    if version(postfix.programs) >= (3, 10) and row.config:
        main["smtpd_hide_client_session"] = "no"
    chain = f"{{ {daemon.socket}, default_action=tempfail }}"
    postfix.restart(
        mta_modes.setup("milter", daemon.socket, main,
                        submission={"smtpd_milters": chain, **row.submission})
    )  # fmt: skip
    canaries, code = send(postfix)
    assert code == row.code, (postfix.log_text(), daemon.text())
    if code == 250:
        (data,) = postfix.collect()
        assert canaries.found(data) == (), data.decode(errors="replace")
        assert data.count(b"\nReceived:") == 3, data.decode(errors="replace")
        assert "reason=scrubbed" in daemon.text()
    else:
        assert "reason=unverified-mta" in daemon.text()
        assert "own_received = mta" not in daemon.text()
        postfix.settle()
        assert postfix.delivered() == []

    # The counter-proof: the same without gatepost.
    postfix.restart(Setup(main={**TALKATIVE, **main}, submission=row.submission))
    canaries, code = send(postfix)
    assert code == 250
    (data,) = postfix.collect()
    assert set(canaries.found(data)) >= {"address", "EHLO", "login"}, data.decode(errors="replace")
