"""The sweep of our own Received, against everything that stands in its way.

Each row is a set-up or a message that once broke a simpler scrub; each runs twice: with gatepost,
where nothing of the client may be left, and without, where the client must be found.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import mta_modes
import mta_unpack
from canary import Canaries
from daemons import Daemon, OtherMilter
from gatepost_policy.scrub import audit
from mta_modes import BASE_CONFIG, TALKATIVE
from postfix_instance import LOGIN, PostfixInstance, Setup, version

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

AR = [["ins", "Authentication-Results", 0, " other.example; none"]]
RECEIVED = [["ins", "Received", 0, " from inner.example by other.example; "
             "Fri, 20 Nov 2026 10:00:00 +0000"]]  # fmt: skip
PREPEND = "/(.*canary.*)/ PREPEND Received: from $1 by mx; Fri, 20 Nov 2026 10:00:00 +0000\n"
HEADER_CHECK = "/^Received: from (.*) by mx\\.local\\.test/ "


@dataclass(frozen=True, slots=True)
class Row:
    """One obstacle. `hops` is how many Received are left: ours, the client's, and others' after."""

    name: str
    message: bytes | None = None  # None: mta_modes.message
    main: dict[str, str] = field(default_factory=dict)
    submission: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    before: list[list[object]] = field(default_factory=list)  # another milter's edits
    after: list[list[object]] = field(default_factory=list)
    helo: str = ""
    hops: int = 3
    bare: tuple[str, ...] = ("address", "host name", "EHLO", "login")


ROWS = (
    Row("nothing in the way"),
    Row("other milter before, Authentication-Results at 0", before=AR),
    Row("other milter before, Received at 0", before=RECEIVED, hops=4),
    Row("other milter after, Authentication-Results at 0", after=AR),
    Row("other milter after, Received at 0", after=RECEIVED, hops=4),
    Row("others on both sides, Received at 0", before=RECEIVED, after=RECEIVED, hops=5),
    Row("two Received from the milter before", before=RECEIVED * 2, hops=5),
    Row("PREPEND Received", files={"prepend": PREPEND}, hops=4,
        submission={"smtpd_client_restrictions": "check_client_access regexp:@ETC@/prepend"}),
    Row("header_checks REPLACE", main={"header_checks": "regexp:@ETC@/checks"},
        files={"checks": HEADER_CHECK + "REPLACE Received: from $1 by elsewhere\n"}),
    # The operator deletes our own hop himself: ours is then swept as the client's would be, and
    # the count is one less, as without gatepost.
    Row("header_checks IGNORE", main={"header_checks": "regexp:@ETC@/checks"},
        files={"checks": "/^Received: from .*\\(Authenticated sender/ IGNORE\n"},
        bare=("address", "EHLO"), hops=2),
    Row("48 Received from the client", hops=49, message=b"".join(
        b"Received: from h%d.example by g%d.example; Fri, 20 Nov 2026 0%d:00:00 +0000\n"
        % (n, n, n % 10) for n in range(48)) + b"Subject: loop\n\nx\n"),
    Row("no header at all", message=b"\nonly a body\n", hops=1),
    Row("no header, no empty line", message=b"only a body\n", hops=1),
    Row("nothing but a header", message=b"Subject: x\nX-Mailer: y\n", hops=1),
    Row("EHLO of 1920 characters", helo="e" * 60 + ".example" + ".a123456789" * 168),
    Row("missing headers added", main={"always_add_missing_headers": "yes"}),
    Row("raw 8-bit", message=b"Received: from \xe4\xff by \xfc; Fri, 20 Nov 2026 10:00:00 +0000\n"
        b"X-Mailer: \xe9\xe8\nSubject: \xc3\xbc\xff\n\n\x80\n", hops=2),
    Row("odd folding and case", message=b"RECEIVED:\n\tfrom x\n\tby y;\n Fri, 20 Nov 2026 10:00:00"
        b" +0000\nreceived:from z\nSubject: x\n\nx\n", hops=3),
)  # fmt: skip


@pytest.fixture(scope="module")
def daemon(milter_engine: str) -> Iterator[Daemon]:
    with Daemon(BASE_CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def postfix(postfix_programs: mta_unpack.Programs) -> Iterator[PostfixInstance]:
    with PostfixInstance(postfix_programs, Setup(main=TALKATIVE)) as running:
        yield running


def deliver(postfix: PostfixInstance, row: Row) -> tuple[Canaries, bytes]:
    fresh = Canaries.fresh("ipv4", LOGIN)
    canaries = Canaries(fresh.address, fresh.name, row.helo or fresh.helo, LOGIN, fresh.port)
    client = postfix.submission(helo=canaries.helo, xclient=canaries.xclient)
    message = mta_modes.message(canaries) if row.message is None else row.message
    sent = client.send(message, "alice@local.test", ["bob@local.test"])
    assert sent.code == 250, (row.name, sent, postfix.log_text())
    (data,) = postfix.collect()
    return canaries, data


def hops(row: Row, postfix: PostfixInstance) -> int:
    """How many Received the row leaves; before 3.7.11 an ignored own hop costs none."""
    old = version(postfix.programs) < (3, 7, 11)
    return row.hops + (old and row.name == "header_checks IGNORE")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_row(row: Row, daemon: Daemon, postfix: PostfixInstance, tmp_path: Path) -> None:
    others = {
        side: OtherMilter(json.dumps(ops), tmp_path / side)
        for side, ops in (("before", row.before), ("after", row.after)) if ops
    }  # fmt: skip
    try:
        chain = [f"{{ {daemon.socket}, default_action=tempfail }}"]
        if "before" in others:
            chain.insert(0, others["before"].socket)
        if "after" in others:
            chain.append(others["after"].socket)
        postfix.restart(
            mta_modes.setup(
                "milter", daemon.socket, row.main, row.files,
                submission={"smtpd_milters": ", ".join(chain), **row.submission},
            )
        )  # fmt: skip
        canaries, data = deliver(postfix, row)
        assert canaries.found(data) == (), data.decode(errors="replace")
        found = audit.find(data, canaries.words())
        assert [f for f in found if f.weight is audit.Weight.LEAK] == []
        got = [f for f in audit.fields(data) if f.name.lower() == "received"]
        assert len(got) == hops(row, postfix), data.decode(errors="replace")

        # The counter-proof: the same without gatepost.
        chain = [m.socket for m in others.values()]
        postfix.restart(
            Setup(main={**TALKATIVE, **row.main}, files=row.files,
                  submission={"smtpd_milters": ", ".join(chain), **row.submission})
        )  # fmt: skip
        canaries, data = deliver(postfix, row)
        assert set(canaries.found(data)) >= set(row.bare), data.decode(errors="replace")
    finally:
        for other in others.values():
            other.stop()
