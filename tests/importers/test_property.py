"""Whatever stands in a log, an importer never raises, and keeps nothing of our own users."""

import json
from datetime import UTC
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import to_json
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.importers.syslog import read_export
from gatepost_policy.journal import record

pytestmark = pytest.mark.slow

CLOCK = Clock(UTC, 1_800_000_000.0)
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Pieces of which real lines are made, so that the patterns are met and then disappointed.
PIECES = [
    "2026-11-20 10:00:00 ", "2026-11-20 10:00:00.1 +0100 ", "Nov 20 10:00:00 mx ",
    "Feb 30 25:61:61 ", "9999-99-99 99:99:99 ", "1QFOdo-0001zq-E9 ", "[1] ", "<= ", "=> ", "-> ",
    "** ", "== ", "<> ", "a@b.example ", "<a@b.example> ", "H=", "x ", "(", ")", "[192.0.2.7]",
    "[::1]", "[x]", ":99999999999 ", "P=esmtpsa ", "A=plain:alice ", "S=99999999999999999999999 ",
    "id=", ' T="', '\\"', '" ', " for ", "DKIM: ", "d=b.example ", "s=s1 ", "b=", "l=²³ ",
    "[verification ", "succeeded]", "failed - ", "invalid - ", "Completed", " rejected ", "RCPT ",
    "after DATA", "F=", "temporarily ", "postfix/", "smtpd", "submission/", "cleanup", "qmgr",
    "local", "pickup", "opendkim", "[1]: ", "4F3D00ABC: ", "NOQUEUE: ", "client=", "x[192.0.2.7]",
    ", sasl_username=", "message-id=<", "from=<", ">, size=", "nrcpt=1 (queue active)", "removed",
    "uid=0", "to=<", ", orig_to=", ", relay=", "reject: ", "milter-reject: ", "END-OF-MESSAGE",
    " from ", ": 550 5.1.1", "; from=<", "> to=<", "> proto=", " helo=<", "SSL ", "\x00", "\udcff",
    "\u2028", "<22>1 ", "- ", "{", '"MESSAGE":', "exim[1]: ",
]  # fmt: skip
LINE = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=14).map("".join)


def _told(importer: Exim | Postfix, lines: list[str]) -> list[Any]:
    seen = [*importer.lines(lines, CLOCK), *importer.finish()]
    out = []
    for one in seen:
        data = json.loads(json.dumps(to_json(one)))
        assert data["key"]
        if data["kind"] != "count":
            record.read_seen(data)
        out.append(data)
    assert importer.tally.lines == len(lines)
    return out


@QUICK
@given(st.lists(LINE, max_size=12))
def test_exim_never_raises(lines: list[str]) -> None:
    _told(Exim(), lines)


@QUICK
@given(st.lists(LINE, max_size=12))
def test_postfix_never_raises(lines: list[str]) -> None:
    _told(Postfix(), lines)


def test_long_hostile_lines_are_quick() -> None:
    """Sixty thousand octets of every piece that a pattern repeats over."""
    heads = ("2026-11-20 10:00:00 1QFOdo-0001zq-E9 ", "2026-11-20 10:00:00 ")
    for piece in (" F=<", " H=", "(", " [1.1", ' T="', "; from=<", " to=<", " rejected ", "\\"):
        noise = piece * (60_000 // len(piece))
        for head in heads:
            lines = [f"{head}<= a@b H=x{noise}", f"{head}F=<a{noise} rejected RCPT"]
            list(Exim().lines(lines, CLOCK))
        refused = "NOQUEUE: reject: RCPT from x[1.1.1.1]: 550"
        list(Postfix().lines([f"Nov 20 10:00:00 mx postfix/smtpd[1]: {refused}{noise}"], CLOCK))


@QUICK
@given(st.binary(max_size=400), st.integers(1, 50))
def test_export_never_raises(data: bytes, size: int) -> None:
    prefix = b"__REALTIME_TIMESTAMP=1795168800000000\nSYSLOG_IDENTIFIER=postfix/smtpd\nMESSAGE"
    data = prefix + data
    blocks = [data[n : n + size] for n in range(0, len(data), size)]
    entries = list(read_export(blocks))
    list(Postfix().entries(entries))


@QUICK
@given(LINE)
def test_an_authenticated_exim_message_leaves_no_trace(noise: str) -> None:
    """Canaries in every place where Exim may name the user; noise where a subject stands."""
    text = noise.replace("\n", " ")
    line = (
        "2026-11-20 10:00:00 1QFOdo-0001zq-E9 <= canary@home.example H=canary (canary)"
        f' [203.0.113.99]:999 P=esmtpsa A=plain:canary S=1 id=canary T="{text}" for canary@x.y'
    )
    exim = Exim()
    told = _told(exim, [line, "2026-11-20 10:00:00 1QFOdo-0001zq-E9 Completed"])
    assert "canary" not in json.dumps(told) and "203.0.113" not in json.dumps(told)
