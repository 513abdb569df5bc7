"""More messages under way than are kept: the oldest is told as far as it is known, never lost."""

from datetime import UTC

from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.postfix import Postfix

NOW = 1_800_000_000.0
MANY, KEPT = 9, 3


def test_postfix() -> None:
    """A queue full of deferred mail, and clients that went away behind it."""
    at, lines = "Nov 20 10:00:00 mx postfix/", []
    for n in range(MANY):
        lines += [
            f"{at}smtpd[1]: 4F3D00AB{n}: client=mx.b.example[192.0.2.7]",
            f"{at}cleanup[2]: 4F3D00AB{n}: message-id=<{n}@b.example>",
            f"{at}qmgr[3]: 4F3D00AB{n}: from=<a@b.example>, size=2345, nrcpt=1 (queue active)",
            f"{at}lmtp[4]: 4F3D00AB{n}: to=<trap{n}@home.example>, relay=none, delay=1,"
            " delays=1/0/0/0, dsn=4.4.1, status=deferred (connect to x: Connection refused)",
        ]
    gone = [f"{at}smtpd[1]: 4F3D00CD{n}: client=x[198.51.100.9]" for n in range(MANY)]
    postfix = Postfix()
    postfix.max_open = KEPT
    seen = [*postfix.lines([*lines, *gone], Clock(UTC, NOW)), *postfix.finish()]
    told = [str(one.facts.recipients[0].address.raw) for one in seen]
    assert told == [f"trap{n}@home.example" for n in range(MANY)]
    assert postfix.tally.kinds["unfinished"] == MANY
    # What comes later about one that was told makes no second row.
    assert [*postfix.lines([lines[2], f"{at}qmgr[3]: 4F3D00AB0: removed"], Clock(UTC, NOW))] == []


def test_exim() -> None:
    at = "2026-11-20 10:00:00 "
    exim = Exim()
    exim.max_open = KEPT
    lines = [
        f"{at}1QFOdo-0001z{n}-E9 <= a@b.example H=mx.b.example [192.0.2.7] P=esmtp S=2345"
        f" id={n}@b.example for trap{n}@home.example"
        for n in range(MANY)
    ]
    seen = [*exim.lines(lines, Clock(UTC, NOW)), *exim.finish()]
    told = [str(one.facts.recipients[0].address.raw) for one in seen]
    assert told == [f"trap{n}@home.example" for n in range(MANY)]
