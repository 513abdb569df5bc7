"""Golden cases: each one pure, and through the real daemon with both ways of hiding Received."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import casefile
import fix_milter
from gatepost_milter.filter import transcript
from gatepost_milter.filter.gate import Gate, Verdict
from gatepost_policy import listings
from gatepost_policy.config.settings import DEFAULT_REMOVE, Settings, Submission
from gatepost_policy.dns import Lookups
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Action, Decision, Edit, Reason
from gatepost_policy.mail.facts import Direction, Facts, Recipient
from gatepost_policy.rules import Known, Listed
from gatepost_policy.rules.whose_mail import whose_mail
from gatepost_policy.scrub import Hop

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
            good_messages=self.good,
        )


def _holds(identity: object, facts: Facts) -> bool:
    return any(identity == i for i in facts.identities())


def pure(case: casefile.Case, home: Path) -> Verdict:
    """The case without libmilter: a transcript, the gate, no socket."""
    places = {"url": f"sqlite:///{home}/gatepost.sqlite"}
    settings = case.settings.model_copy(
        update={"store": case.settings.store.model_copy(update=places)}
    )
    gate = Gate(settings, replay=True)
    gate.known = Knowledge(case)  # type: ignore[assignment]
    e = case.envelope
    host, family, addr = _peer(case)
    client, local = transcript.read_client(host, family, addr)
    daemon = e.macros.get("{daemon_name}", e.daemon_name or e.mta)
    connection = transcript.Connection(
        client=client, local=local, daemon_name=None if daemon is None else str(daemon)
    )
    if "j" not in e.macros:
        connection.mta_name = e.mta
    if "v" not in e.macros:
        connection.mta_version = e.version
    login = e.macros.get("{auth_authen}", e.login)
    if isinstance(login, bytes):
        login = login.decode("utf-8", "replace")
    message = transcript.Message(casefile.AT, f"<{e.sender}>".encode(),
                                 tuple(x.encode() for x in e.sender_args))  # fmt: skip
    message.login = login or None
    whose = whose_mail(
        settings.submission, address=client.address, local=local, login=message.login,
        listener=connection.daemon_name,
    )  # fmt: skip
    message.direction, message.trusted_relay = whose.direction, whose.trusted_relay
    message.proxy = whose.second_hop
    if "{gatepost_at}" in e.macros:
        return Verdict(transcript.facts(connection, message), gate.stance(message.direction))
    for text in e.rejected:
        parsed = address.parse(text)
        message.refused.append(Recipient(parsed, accepted=False))
    for text in e.recipients:
        answer = None
        if gate.answers_rcpt and message.direction is Direction.INBOUND:
            answer = gate.judge_rcpt(connection, message, f"<{text}>".encode())
        parsed = address.parse(text)
        if answer is not None:
            message.refused.append(Recipient(parsed, accepted=False))
            if len(e.recipients) == 1:
                refused = gate.refused_recipients(connection, message, None)
                assert refused is not None
                return Verdict(refused.facts, answer)
        else:
            message.recipients.append(Recipient(parsed))
    _fill(message, case, settings)
    outcome = None
    if message.direction is Direction.INBOUND and message.over_limit is None:
        check = gate.verifier.begin(casefile.AT, _played(case, settings))
        for name, value in message.fields:
            check.header(name.encode(), value)
        check.end_of_headers()
        check.body(case.message.partition(b"\r\n\r\n")[2])
        outcome = check.finish()
    hop = Hop(
        name=connection.mta_name, version=connection.mta_version,
        queue_id=casefile.QUEUE_ID, tls=bool(e.tls), authenticated=message.login is not None,
        smtputf8=message.smtputf8, proxy=message.proxy, can_edit=not case.offer,
    )  # fmt: skip
    return gate.finish(connection, message, outcome, casefile.QUEUE_ID, hop)


def _played(case: casefile.Case, settings: Settings) -> Lookups:
    return Lookups(settings.dkim, case.dns)


def _peer(case: casefile.Case) -> tuple[str, int, object]:
    e = case.envelope
    if e.local:
        return "localhost", transcript.AF_INET, ("127.0.0.1", 0)
    if e.client is None:
        return "localhost", 0, None
    name = e.client_name or f"[{e.client}]"
    if ":" in e.client and "." not in e.client:
        return name, transcript.AF_INET6, (e.client, e.port, 0, 0)
    return name, transcript.AF_INET, (e.client.rpartition(":")[2], e.port)


def _fill(message: transcript.Message, case: casefile.Case, settings: Settings) -> None:
    from gatepost_milter.mta import queue_file

    fields, _ = queue_file.parse(case.message)
    limits = settings.milter
    for field in fields:
        message.header_bytes += len(field.name) + len(field.value) + 3
        message.fields.append((field.name.decode(), field.value))
    message.fields += case.extra
    if message.header_bytes > limits.max_header_bytes or len(fields) > limits.max_header_fields:
        message.over_limit = "limit"
        message.fields.clear()


@pytest.mark.parametrize("case", ALL, ids=names)
def test_pure(case: casefile.Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What was decided is what the file says."""
    verdict = pure(case, tmp_path)
    edits = verdict.edits if verdict.decision.action is Action.ACCEPT else ()
    got = casefile.outcome(verdict.decision, edits)
    if request.config.getoption("--update-cases"):
        casefile.update(case, got)
        return
    assert got == case.expected, case.title


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
    assert line["action"] == _line(case, "action")
    want = [x for x in case.expected if x.split(" ")[0] in ("insert", "change", "delete")]
    assert [casefile.edit_line(e) for e in result.edits] == want
    action = _line(case, "action")
    assert result.action == action
    if action in ("reject", "tempfail"):
        assert result.reply == _line(case, "reply")
    for dropped in (x[6:] for x in case.expected if x.startswith("drop: ")):
        assert dropped not in result.accepted_recipients
    if line["direction"] == "submission" and action == "accept":
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
    assert set(Submission.model_fields) - used == set()
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
    verdict = pure(case, tmp_path)
    wrong = Verdict(verdict.facts, verdict.decision, (*verdict.edits, Edit("delete", "X", 1)))
    assert casefile.outcome(wrong.decision, wrong.edits) != case.expected
    assert casefile.outcome(Decision(Action.ACCEPT, Reason.LOCAL), ()) != case.expected
