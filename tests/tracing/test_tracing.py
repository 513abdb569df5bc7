"""Accountable anonymity: tokens that tell nothing, and that only the keys' owner can read."""

import base64
import itertools
import json
import quopri
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gatepost_milter.cli import main
from gatepost_policy import tracing
from gatepost_policy.tracing import Bundle, Content, Keyring, Outcome, TraceKeyError
from gatepost_policy.tracing import token as tokens

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
HEADER = [("From", b" Alice\n <alice@example.org>"), ("Date", b" x"), ("Message-ID", b" <1@x>")]
BODY = b"Hello.  \r\nBob\r\n\r\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tracing.make_keys(tmp_path / "keys", tmp_path / "bundle", 3, NOW)
    return tmp_path


def seal(home: Path, account: str = "alice7", at: float = NOW, body: bytes = BODY) -> str:
    bundle = Bundle.read(home / "bundle")
    found = bundle.at(at)
    assert found is not None
    hashed = tokens.new_body()
    for n in range(len(body)):
        hashed.update(body[n : n + 1])
    content = Content(account, int(at), "4ABC", tracing.header_hash(HEADER),
                      tokens.body_hash(hashed))  # fmt: skip
    return tracing.seal(content, *found, bundle.mac_key)


def message(token: str, body: bytes = BODY, header: bytes = b"") -> bytes:
    head = b"".join(b"%s:%s\n" % (n.encode(), v) for n, v in HEADER) if not header else header
    field = f"{tracing.FIELD}:{tokens.folded(token)}\n".encode()
    return field + head + b"\n" + body.replace(b"\r\n", b"\n")


def test_a_thousand_messages_of_one_account(home: Path) -> None:
    """No two tokens are equal or share a run beyond chance; all of one length; all resolve."""
    made = [seal(home) for _ in range(1000)]
    made.append(seal(home, "a-much-longer-account-name" * 9))
    boxes = [token.rpartition(".")[2] for token in made]
    assert len(set(boxes)) == len(boxes) and len({len(box) for box in boxes}) == 1
    # Eight characters are 48 bits: 600 000 places have a common run of them by chance in one of a
    # thousand tries. The counter-proof is the name of the key, which all share.
    runs: set[str] = set()
    for box in boxes:
        mine = {box[n : n + 9] for n in range(len(box) - 8)}
        assert not mine & runs
        runs |= mine
    assert len({token[:19] for token in made}) == 1
    keyring = Keyring(home / "keys")
    for token in made[:1000]:
        answer = tracing.resolve(message(token), keyring)
        assert answer.outcome is Outcome.RESOLVED and answer.body_known
        content = answer.content
        assert content is not None and content.account == "alice7"
        assert content.queue_id == "4ABC" and content.at == int(NOW)


def test_what_is_sealed_cannot_be_read_from_the_bundle(home: Path) -> None:
    """The mail host has the bundle and cannot open what it sealed; the token has no plain text."""
    token = seal(home)
    raw = tokens.parse(token)
    assert raw is not None and b"alice7" not in raw.box
    private = [p.read_text().strip() for p in (home / "keys").glob("????-*.key")]
    assert len(private) == 3 and not any(p in (home / "bundle").read_text() for p in private)


def test_outcomes(home: Path) -> None:
    keyring = Keyring(home / "keys")
    token = seal(home)

    def outcome(data: bytes) -> tuple[Outcome, bool]:
        answer = tracing.resolve(data, keyring)
        return answer.outcome, answer.content is not None

    assert outcome(message(token)) == (Outcome.RESOLVED, True)
    assert outcome(message(token).replace(b"\n", b"\r\n")) == (Outcome.RESOLVED, True)
    assert outcome(b"From x Wed\n" + message(token)) == (Outcome.RESOLVED, True)
    assert outcome(message(token, b"Hello.\nBob\n")) == (Outcome.RESOLVED, True)  # blanks, no more
    assert outcome(message(token, b"Hello, \nBob\n")) == (Outcome.BODY_CHANGED, True)
    assert outcome(token.encode()) == (Outcome.NOT_TIED, True)
    assert outcome(tokens.folded(token).encode()) == (Outcome.NOT_TIED, True)
    other = message(token).replace(b"<1@x>", b"<2@x>")
    assert outcome(other) == (Outcome.OTHER_MESSAGE, False)
    assert outcome(message(token[:-6] + "AAAAAA")) == (Outcome.FORGED, False)
    assert outcome(message("v1.0000000000000000.AAAA")) == (Outcome.NO_KEY, False)
    assert outcome(b"Subject: x\n\nx\n") == (Outcome.NO_TOKEN, False)
    assert outcome(b"X-Gatepost-Trace: nonsense\n\nx\n") == (Outcome.FORGED, False)


def test_anybody_can_seal_to_a_public_key(home: Path) -> None:
    """Without the host's secret it is forged, however well it is sealed."""
    bundle = Bundle.read(home / "bundle")
    found = bundle.at(NOW)
    assert found is not None
    hashed = tokens.new_body()
    hashed.update(BODY)
    content = Content("bob", int(NOW), "4ABC", tracing.header_hash(HEADER),
                      tokens.body_hash(hashed))  # fmt: skip
    forged = tracing.seal(content, *found, bytes(32))
    answer = tracing.resolve(message(forged), Keyring(home / "keys"))
    assert answer.outcome is Outcome.FORGED and answer.content is None


@pytest.mark.parametrize("kind", ["message/rfc822", "text/rfc822-headers"])
def test_reports_and_bounces(home: Path, kind: str) -> None:
    """RFC 5965 and RFC 3462: the message, or its header, is in a part."""
    inner = message(seal(home))
    if kind == "text/rfc822-headers":
        inner = inner.partition(b"\n\n")[0] + b"\n"
    report = (
        b'From: abuse@example.net\nDate: y\nMessage-ID: <9@y>\nContent-Type: multipart/report;'
        b' boundary="b"\n\n--b\nContent-Type: text/plain\n\nSpam!\n--b\nContent-Type: '
        + kind.encode() + b"\n\n" + inner + b"\n--b--\n"
    )  # fmt: skip
    answer = tracing.resolve(report, Keyring(home / "keys"))
    assert answer.outcome is Outcome.RESOLVED
    assert answer.body_known is (kind == "message/rfc822")


def test_a_complaint_of_one_user_about_another(home: Path) -> None:
    """Both messages have a trace: neither is passed over, whichever comes first."""
    inner = message(seal(home, "alice7"))
    field, _, rest = message(seal(home, "bob")).partition(b"\n" + HEADER[0][0].encode() + b":")
    head = HEADER[0][0].encode() + b":" + rest.partition(b"\n\n")[0]
    outer = (
        field + b"\n" + head + b"\nContent-Type: multipart/mixed; boundary=b\n\n--b\n"
        b"Content-Type: message/rfc822\n\n" + inner + b"\n--b--\n"
    )
    found = tracing.resolve_each(outer, Keyring(home / "keys"))
    assert [(a.content and a.content.account, a.attached) for a in found] == [
        ("bob", False), ("alice7", True),
    ]  # fmt: skip


@pytest.mark.parametrize("kind, coding", [
    ("message/rfc822", "base64"), ("application/octet-stream; name=x.eml", "base64"),
    ("application/octet-stream; name=x.eml", "quoted-printable"),
])  # fmt: skip
def test_messages_in_a_coding(home: Path, kind: str, coding: str) -> None:
    """A message that is attached as a file, and one coded where RFC 2046 5.2.1 wants none."""
    inner = message(seal(home))
    coded = base64.encodebytes(inner) if coding == "base64" else quopri.encodestring(inner)
    mail = (
        f"From: abuse@example.net\nContent-Type: multipart/mixed; boundary=b\n\n--b\n"
        f"Content-Type: {kind}\nContent-Transfer-Encoding: {coding}\n\n"
    ).encode() + coded + b"\n--b--\n"  # fmt: skip
    answer = tracing.resolve(mail, Keyring(home / "keys"))
    assert answer.outcome is Outcome.RESOLVED and answer.body_known
    broken = mail.replace(coded, b"!" + coded[7:])
    assert tracing.resolve(broken, Keyring(home / "keys")).outcome is not Outcome.RESOLVED


def test_a_key_a_week_and_none_afterwards(home: Path) -> None:
    bundle = Bundle.read(home / "bundle")
    names = {week: bundle.at(NOW + 7 * 86_400 * week) for week in range(-1, 4)}
    assert names[-1] is None and names[3] is None
    assert len({found[0] for found in (names[0], names[1], names[2]) if found}) == 3
    # Made once more, for longer: what is there stays.
    assert tracing.make_keys(home / "keys", home / "bundle", 5, NOW) == 2
    again = Bundle.read(home / "bundle")
    assert again.mac_key == bundle.mac_key and set(again.weeks) > set(bundle.weeks)
    for path in (home / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    assert (home / "bundle").stat().st_mode & 0o077 == 0


def test_forgotten_keys_open_nothing(home: Path) -> None:
    token = seal(home)
    keyring = Keyring(home / "keys")
    assert keyring.forget(NOW) == []  # this week is not over
    assert len(keyring.forget(NOW + 7 * 86_400)) == 1
    assert tracing.resolve(message(token), keyring).outcome is Outcome.NO_KEY
    later = seal(home, at=NOW + 7 * 86_400)
    assert tracing.resolve(message(later), keyring).outcome is Outcome.RESOLVED


@pytest.mark.parametrize("line", ["", "gatepost", "mac x", "2026-11-23 x y", "2026-11-24 x y"])
def test_a_bundle_that_is_none(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bundle"
    path.write_text("gatepost-trace-keys v1\n" + line + "\n" if line != "gatepost" else line)
    with pytest.raises(TraceKeyError, match="bundle"):
        Bundle.read(path)


def test_an_account_too_long_is_refused(home: Path) -> None:
    with pytest.raises(ValueError, match="255"):
        seal(home, "a" * 256)
    assert len(seal(home, "a" * 255)) == len(seal(home, ""))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys, bundle = tmp_path / "k", tmp_path / "b"

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main(["trace", *words, "--keys", str(keys)])
        out, err = capsys.readouterr()
        return int(done.value.code or 0), out, err

    assert run("keygen", "--weeks", "2", "--bundle", str(bundle))[0] == 0
    read = Bundle.read(bundle)
    found = next(iter(read.weeks.items()))
    hashed = tokens.new_body()
    hashed.update(BODY)
    content = Content("alice7", found[0], "4ABC", tracing.header_hash(HEADER),
                      tokens.body_hash(hashed))  # fmt: skip
    token = tracing.seal(content, *found[1], read.mac_key)
    mail = tmp_path / "m.eml"
    mail.write_bytes(message(token))
    code, out, _ = run("resolve", str(mail), "--case", "case 17")
    assert code == 0 and "account   alice7" in out and "header and body" in out
    code, out, _ = run("resolve", token)
    assert code == 0 and "not tied to a message" in out
    mail.write_bytes(message(token, b"other\n"))
    code, out, _ = run("resolve", str(mail))
    assert code == 1 and "body changed since" in out
    mail.write_bytes(message(token).replace(b"<1@x>", b"<2@x>"))
    code, out, err = run("resolve", str(mail))
    assert code == 1 and "taken from another message" in err and "alice7" not in out + err
    lines = [json.loads(x) for x in (keys / "audit.log").read_text().splitlines()]
    assert [x["outcome"] for x in lines] == [
        "resolved", "not tied to a message", "body changed since", "taken from another message",
    ]  # fmt: skip
    assert lines[0]["case"] == "case 17" and "alice7" not in (keys / "audit.log").read_text()
    lines_before = len(lines)
    mail.write_bytes(b"Content-Type: message/rfc822\n" + message(token, message(token)))
    code, out, err = run("resolve", str(mail))
    assert code == 1 and out.count("alice7") == 1 and "body changed" in out
    assert len((keys / "audit.log").read_text().splitlines()) == lines_before + 1
    code, out, _ = run("forget", "--before", "2099-01-01")
    assert code == 0 and out.startswith("2 keys destroyed")
    mail.write_bytes(message(token))
    code, out, err = run("resolve", str(mail))
    assert code == 1 and len(err.splitlines()) == 1 and "forgotten" in err
    code, _, err = run("forget", "--before", "soon")
    assert code == 2
    assert run("resolve", "nothing")[0] == 1


def test_cost(home: Path) -> None:
    """A message's token takes tens of microseconds: the best of several rounds counts."""
    import time

    bundle = Bundle.read(home / "bundle")
    found = bundle.at(NOW)
    assert found is not None
    content = Content("alice7", int(NOW), "4ABC", bytes(32), bytes(32))
    best = 1.0
    for _ in itertools.repeat(None, 20):
        begun = time.process_time()
        for _ in itertools.repeat(None, 50):
            tracing.seal(content, *found, bundle.mac_key)
        best = min(best, (time.process_time() - begun) / 50)
    assert best < 200e-6, f"{best * 1e6:.0f} us"  # 100 are promised on a machine of its own
