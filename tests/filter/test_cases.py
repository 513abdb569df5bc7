"""Golden cases: each one pure, and through the real daemon with both ways of hiding Received."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import casefile
import fix_milter
from dialogue_wire import InProcess, octets, whole
from gatepost_milter.filter.context import Context
from gatepost_milter.filter.gate import Gate, Verdict
from gatepost_milter.mta.client import Result
from gatepost_policy import listings
from gatepost_policy.config.field_lists import DEFAULT_REMOVE
from gatepost_policy.config.settings import Submission
from gatepost_policy.config.values import keys_of
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Edit, Reason
from gatepost_policy.mail.facts import Direction, Facts
from gatepost_policy.mail.organisation import organisation
from gatepost_policy.rules import Good, Known, Listed, Past
from gatepost_policy.rules.known import Signer

ALL = casefile.everything()
names = [case.name for case in ALL]


class Knowledge:
    """What a case says is known, in place of the published files."""

    def __init__(self, case: casefile.Case) -> None:
        self.traps = frozenset(case.known["trap"])
        self.listed = [listings.identify(x) for x in case.known["listed"]]
        self.repeat = [listings.identify(x) for x in case.known["repeat"]]
        self.good = int((case.known["good"] or ["0"])[0])

    def is_trap(self, mailbox: address.Address) -> bool:
        return mailbox.trap_key in self.traps

    def live_traps(self, used: Mapping[str, str]) -> dict[str, str]:
        found = {how: address.parse(text) for how, text in used.items() if "@" in text}
        return {how: a.trap_key for how, a in found.items() if self.is_trap(a)}

    def lookup(self, facts: Facts) -> Known:
        found = frozenset(r.address.raw for r in facts.recipients if self.is_trap(r.address))
        if facts.direction is not Direction.INBOUND:
            return Known(traps=found)
        ours = facts.identities()
        held = tuple(Listed(i, facts.at + 1) for i in self.listed if _holds(i, facts))
        return Known(
            traps=found,
            listed=held,
            repeat=tuple(i for i in ours if i in self.repeat),
            past=self.past(facts),
        )

    def past(self, facts: Facts) -> Past:
        """So many good messages, of the client and of whoever signed."""
        good = Good(messages=self.good, old=self.good, days=self.good)
        signers = {organisation(d): Signer(good=good) for d in facts.aligned_domains()}
        return Past(client=good, signers=signers)


def _holds(identity: object, facts: Facts) -> bool:
    return any(identity == i for i in facts.identities())


@dataclass(frozen=True)
class Played:
    """What became of a case."""

    verdict: Verdict
    result: Result

    def outcome(self) -> list[str]:
        """The lines of [expected]."""
        return casefile.outcome(self.verdict.decision, self.result.edits, self.result.stage)


def pure(
    case: casefile.Case, home: Path, cut: Callable[[bytes], Iterator[bytes]] = whole
) -> Played:
    """The case in this process: the harness's MTA, the native engine's dialogue, the session and
    the gate of the daemon. Only what is known and what is written down are ours."""
    place = f"sqlite:///{home}/gatepost.sqlite"
    settings = replace(case.settings, store=replace(case.settings.store, url=place))
    gate = Gate(settings, replay=True)
    gate.known = Knowledge(case)  # type: ignore[assignment]
    written: list[Verdict] = []
    gate.write_down = lambda verdict, kind="message": written.append(verdict)  # type: ignore[method-assign]
    macros = {**fix_milter.replay_macros(case), **case.envelope.macros}
    offer: dict[str, Any] = fix_milter.offer(case.offer)
    session = InProcess("", case.envelope, context=Context(gate), cut=cut, **offer)
    with session, fix_milter.odd_fields(case):
        result = session.send(case.message, replace(case.envelope, macros=macros))
    assert len(written) == 1
    return Played(written[0], result)


@pytest.mark.parametrize("case", ALL, ids=names)
def test_pure(case: casefile.Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What was decided is what the file says."""
    got = pure(case, tmp_path).outcome()
    if request.config.getoption("--update-cases"):
        casefile.update(case, got)
        return
    assert got == case.expected, case.title


@pytest.mark.parametrize("case", ALL[::7], ids=names[::7])
def test_octet_by_octet(case: casefile.Case, tmp_path: Path) -> None:
    """However the octets arrive, the outcome is the same."""
    assert pure(case, tmp_path, octets).outcome() == case.expected, case.title


def through_the_daemon() -> list[Any]:
    """(case, hiding): both ways of hiding where they can make a difference, and cases of one
    configuration in a row, because each change of it is a reload."""
    rounds = [
        (case, hiding)
        for case in ALL
        for hiding in fix_milter.HIDINGS
        if hiding == fix_milter.HIDINGS[1] or any("Received" in x for x in case.expected)
    ]
    rounds.sort(key=lambda r: r[0].sections["settings"])
    return [pytest.param(*r, id=f"{r[0].name}-{r[1]}") for r in rounds]


@pytest.mark.milter
@pytest.mark.parametrize(("case", "hiding"), through_the_daemon())
def test_daemon(case: casefile.Case, hiding: str, case_daemon: "fix_milter.CaseDaemon") -> None:
    """The MTA gets the edits and the reply of the file, and the log has its reason."""
    result, line = case_daemon.play(case, hiding)
    assert line["reason"] == _line(case, "reason"), case.title
    want = [x for x in case.expected if x.split(" ")[0] in ("insert", "change", "delete")]
    assert [casefile.edit_line(e) for e in result.edits] == want
    action, _, stage = _line(case, "action").partition("@")
    assert result.action == line["action"] == action
    assert result.stage == (stage or "end")
    if action in ("reject", "tempfail"):
        assert result.reply == _line(case, "reply")
    for dropped in (x[6:] for x in case.expected if x.startswith("drop: ")):
        assert dropped not in result.accepted_recipients
    if line.get("direction") == "submission" and action == "accept":
        assert_nothing_leaks(case, result.message, line)


def assert_nothing_leaks(case: casefile.Case, message: bytes, line: dict[str, object]) -> None:
    """Our own hop names no client, in the delivered message and in the log line."""
    e = case.envelope
    own = message.partition(b"\nFrom:")[0] if case.expected[1] == "reason: relayed" else message
    if case.settings.submission.own_received != "milter":
        return  # the MTA's part, tested against a real one
    for secret in (e.client, e.helo, e.client_name, f"[{e.client}]"):
        text = secret.decode() if isinstance(secret, bytes) else secret
        if text and f"# keeps {text}" not in case.sections["session"]:
            assert text.encode() not in own, text
            assert text not in str(line)
    assert set(line) == {"at", "id", "direction", "family", "action", "reason"}


def _line(case: casefile.Case, key: str) -> str:
    found = [x for x in case.expected if x.startswith(f"{key}: ")]
    return found[0].partition(": ")[2] if found else ""


def test_every_reason_has_a_case() -> None:
    """A new Reason needs a case that gives it."""
    given = {_line(case, "reason") for case in ALL}
    given.add(Reason.MTA_REFUSED)  # from imported logs: the milter never gives it
    given |= {word for case in ALL for word in _line(case, "shadow").split(", ")}
    # What an imported log says of the MTA is no verdict of ours.
    assert {str(r) for r in Reason} - given - {"mta-refused"} == set()


def test_every_scrub_key_has_a_case() -> None:
    """A new key of [submission], or pattern of its removal list, needs a case that shows it."""
    used = {key for case in ALL for key in _set_keys(case)}
    assert {key.name for key in keys_of(Submission)} - used == set()
    removed = {x.split(" ")[1].lower() for case in ALL for x in case.expected
               if x.startswith("delete ")}  # fmt: skip
    from fnmatch import fnmatch

    missing = [p for p in DEFAULT_REMOVE if not any(fnmatch(r, p.lower()) for r in removed)]
    assert missing == []


def _set_keys(case: casefile.Case) -> set[str]:
    import tomllib

    return set(tomllib.loads(case.sections["settings"]).get("submission", {}))


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    """The comparison fires: a case with another edit does not pass."""
    case = next(c for c in ALL if "reason: scrubbed" in c.expected)
    played = pure(case, tmp_path)
    assert played.outcome() == case.expected
    edits = (*played.result.edits, Edit("delete", "X", 1))
    for wrong in (edits, edits[:-2], ()):
        result = replace(played.result, edits=wrong)
        assert replace(played, result=result).outcome() != case.expected


def test_a_wrong_stage_is_noticed(tmp_path: Path) -> None:
    """A trap that is refused at RCPT is not one that is refused at the end."""
    case = next(c for c in ALL if "action: reject@rcpt" in c.expected)
    played = pure(case, tmp_path)
    assert played.outcome() == case.expected
    result = replace(played.result, stage="end")
    assert replace(played, result=result).outcome() != case.expected
