"""An abuse report names no trap and no recipient, and is what its two standards want."""

import base64
import codecs
import email
import hashlib
import json
import re
import time
from email.message import Message
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fix_cli import Run
from fix_store import AT, message, signature
from gatepost_policy import recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.facts import Signature
from gatepost_policy.report import masking
from gatepost_policy.report.masking import Masks, StillThere

TRAP, USER = "forgotten.one@home.example", "kari@home.example"
B64 = base64.b64encode
# Every place and every form in which a mailer names whom it writes to.
NASTY = (
    b"Return-Path: <bounce+forgotten.one=home.example@spam.example>\r\n"
    b"Received: from a.spam.example ([192.0.2.7])\r\n\tby mx.home.example with ESMTP id Q2\r\n"
    b"\tfor <forgotten.one@home.example>; Tue, 22 Sep 2026 00:00:00 +0000\r\n"
    b"Delivered-To: forgotten.one@home.example\r\n"
    b"X-Original-To: forgotten.one@home.example\r\n"
    b"From: Offers <news@spam.example>\r\n"
    b"To: =?utf-8?B?" + B64(b"Forgotten <forgotten.one@home.example>") + b"?=\r\n"
    b"Cc: kari@home.example, other@home.example\r\n"
    b"Subject: =?utf-8?Q?kari=40home.example,_an_offer?= for forgotten.one\r\n"
    b"List-Unsubscribe: <https://spam.example/u?e=forgotten.one%40home.example>\r\n"
    b"X-Campaign: " + hashlib.md5(TRAP.encode(), usedforsecurity=False).hexdigest().encode() +
    b"\r\nMessage-ID: <1.forgotten.one=home.example@spam.example>\r\n"
    b"DKIM-Signature: v=1; d=spam.example; s=x; b=abcd\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
    b"--x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + B64(b"Dear Forgotten.One, write to other@home.example or KARI@HOME.EXAMPLE") +
    b"\r\n--x\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"<a href=3D'https://spam.example/c/" + hashlib.sha256(TRAP.encode()).hexdigest().encode() +
    b"'>x</a> <img src=3D'https://spam.example/o?r=3D" + B64(b"r=" + TRAP.encode()) +
    b"'> forgotten.=\r\none@home.example\r\n"
    b"--x\r\nContent-Type: image/png; name=forgotten.one@home.example.png\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + B64(TRAP.encode()) + b"\r\n--x--\r\n"
)  # fmt: skip
NEEDLES = ("forgotten", "kari", "other@", hashlib.sha256(TRAP.encode()).hexdigest(),
           hashlib.md5(TRAP.encode(), usedforsecurity=False).hexdigest(),
           B64(b"r=" + TRAP.encode()).decode()[4:30])  # fmt: skip


def plain(data: bytes) -> str:
    """All text of a message: its header, and each part decoded, whatever is inside of what."""
    found = email.message_from_bytes(data)
    return data.decode("ascii") + "".join(_decoded(part) for part in found.walk())


def _decoded(part: Message) -> str:
    payload = part.get_payload(decode=True)
    return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""


def test_nobody_is_named_in_any_form() -> None:
    before = plain(NASTY)
    assert all(needle.lower() in before.lower() for needle in NEEDLES)  # the counter-proof
    got = plain(masking.message(NASTY, Masks({TRAP, USER, "other@home.example"})))
    for needle in NEEDLES:
        assert needle.lower() not in got.lower(), got
    # What an abuse desk needs is there.
    for words in ("from a.spam.example ([192.0.2.7])", "news@spam.example", "d=spam.example",
                  "for masked", "[image/png,", "an offer"):  # fmt: skip
        assert words in got, got
    assert re.search(r"^Delivered-To: masked\r?$", got, re.M)


@pytest.mark.parametrize(
    "text",
    [
        "forgotten.one+tag@home.example", "FORGOTTEN.ONE@HOME.EXAMPLE",
        "forgotten.one(at)home.example",
        "b-forgotten.one=40home.example", "home.example/forgotten.one", TRAP.encode().hex(),
        hashlib.sha1(TRAP.encode(), usedforsecurity=False).hexdigest(),
        *(B64(b"x" * n + TRAP.encode() + b"y").decode() for n in range(3)),
        "hello forgotten.one!", "<forgotten.one>",
    ],
)  # fmt: skip
def test_forms_of_one_address(text: str) -> None:
    masks = Masks({TRAP, "forgotten.one+tag@home.example"})
    assert "masked" in masks.text(f"a {text} b")
    assert "forgotten" not in masks.text(text).lower()


def disguised(address: str) -> dict[str, str]:
    """Ways in which a mailer has whom it writes to in a link, a bounce address, a page."""
    local, _, domain = address.partition("@")
    octets = address.encode()

    def digest(name: str, text: bytes = octets) -> bytes:
        return hashlib.new(name, text, usedforsecurity=False).digest()

    return {
        "entities": "".join(f"&#{ord(c)};" for c in address),
        "hex entities": "".join(f"&#x{ord(c):x};" for c in local) + f"&commat;{domain}",
        "percent": "".join(f"%{ord(c):02X}" for c in address),
        "percent twice": f"{local}%2540{domain}".replace(".", "%252E"),
        "dkim quoted": f"z=To:{address}".replace(".", "=2E").replace("@", "=40"),
        "javascript": "".join(f"\\u{ord(c):04x}" for c in address),
        "invisible": f"{local[:3]}\u200b{local[3:]}\u00ad@{domain}",
        "tags": f"<b>{local[:3]}</b>{local[3:]}<i>@</i>{domain}",
        "full width": address.translate({n: n + 0xFEE0 for n in range(33, 127)}),
        "bold": "".join(chr(0x1D41A + ord(c) - 97) if c.isalpha() else c for c in address),
        "words": f"{local.replace('.', ' dot ')} at {domain.replace('.', ' dot ')}",
        "underscores": f"bounce_{local}_{domain}",
        "glued": f"b17{local}9@x.example",
        "joined otherwise": local.replace(".", "_").title(),
        "hex in pairs": octets.hex(" "),
        "hex of the local part": local.encode().hex(),
        "base64 of the local part": B64(local.encode()).decode(),
        "base64 in capitals": B64(address.upper().encode()).decode(),
        "base64 of UTF-16": B64(address.encode("utf-16-le")).decode(),
        "base64 twice": B64(B64(b"ab" + octets)).decode(),
        "base64 in lines": base64.encodebytes(b"x" * 40 + octets + b"y" * 60).decode().strip(),
        "base32": base64.b32encode(b"id=" + octets).decode(),
        "JSON in a link": "https://x.example/c/" + base64.urlsafe_b64encode(
            b'{"id":7,"to":"' + octets + b'"}').decode().rstrip("="),
        "turned round": address[::-1],
        "rot13": codecs.encode(address, "rot13"),
        "SHA-512": digest("sha512").hex(),
        "MD5 of capitals": digest("md5", address.upper().encode()).hex(),
        "MD5 with a line end": digest("md5", octets + b"\n").hex(),
        "MD5 of the local part": digest("md5", local.encode()).hex(),
        "half an MD5": digest("md5").hex()[:16],
        "SHA-1 in base64": base64.urlsafe_b64encode(digest("sha1")).decode().rstrip("="),
        "SHA-256 in a link": "https://x.example/u/" + B64(digest("sha256")).decode(),
    }  # fmt: skip


def test_disguises_of_one_address() -> None:
    masks = Masks({TRAP, USER})
    for name, text in disguised(TRAP).items():
        got = masks.text(f"a {text} b")
        assert "masked" in got and text not in got and "orgotten" not in got, (name, got)
    for name, text in disguised("somebody.else@elsewhere.example").items():
        assert masks.text(f"a {text} b") == f"a {text} b", name


def test_a_name_with_blanks_behind_for_is_left_out_whole() -> None:
    odd = '"odd trap"@home.example'
    for named in (f"for <{odd}>", f"for {odd}", f"for <{TRAP}>, <{odd}>"):
        data = (
            f"Received: from a by b id Q\r\n\t{named}; Tue, 22 Sep 2026 00:00:00 +0000\r\n\r\nx\r\n"
        )
        got = masking.message(data.encode(), Masks({TRAP, odd})).decode()
        assert "for masked; Tue" in got and "trap" not in got and "home.example" not in got, got


def test_a_long_text_is_cut_between_words() -> None:
    words = (TRAP + " ") * (masking.TEXT_MAX // len(TRAP) + 100) + "a" * masking.TEXT_MAX
    got = plain(masking.message(b"Subject: x\r\n\r\n" + words.encode(), Masks({TRAP})))
    assert "more characters: left out]" in got and "orgotten" not in got and "aaaa" not in got


def test_other_words_stay() -> None:
    masks = Masks({"al@home.example", "info@home.example"})
    assert masks.text("all the information is altogether fine") == (
        "all the information is altogether fine"
    )


def test_what_cannot_be_masked_is_no_report() -> None:
    with pytest.raises(StillThere):
        Masks({TRAP}).check(f"x {TRAP} y")


def test_what_remains_is_said() -> None:
    said = " ".join(masking.remaining(masking.message(NASTY, Masks({TRAP})), "b+9912345@x.example"))
    for word in ("the time", "envelope sender", "Message-ID", "DKIM", "receiving server"):
        assert word in said


def fill(engine: Engine, settings: Settings) -> None:
    recorder.record_batch(
        engine,
        [
            message(n, at=AT + n * 86_400 * 30, traps=(TRAP,), to=(), sender="news@spam.example",
                    author="news@spam.example", signatures=(signature("spam.example"),),
                    reason=Reason.TRAP)
            for n in (0, 1, 2)
        ],
        settings,
    )  # fmt: skip
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=AT)


def captured(directory: Path) -> str:
    """The newest message as `trap.capture` keeps it; the configuration that says so."""
    at = AT + 2 * 86_400 * 30
    stem = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(at))}-0123456789ab"
    directory.mkdir()
    (directory / f"{stem}.eml").write_bytes(NASTY)
    sidecar = {
        "at": at, "queue_id": "Q2", "client": {"address": "192.0.2.7", "port": 40125},
        "envelope": {"sender": "news@spam.example",
                     "recipients": [{"address": TRAP, "trap": True, "accepted": True}]},
    }  # fmt: skip
    (directory / f"{stem}.json").write_text(json.dumps(sidecar))
    return f'trap.capture = "{directory}"\n'


def check_xarf(told: dict[str, object]) -> None:
    """The facts of the published schema (xarf-core, messaging-spam) that a report can break."""
    assert re.fullmatch(r"4\.\d+\.\d+", str(told["xarf_version"]))
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(told["report_id"]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(told["timestamp"]))
    for name in ("reporter", "sender"):
        who = told[name]
        assert isinstance(who, dict) and set(who) == {"org", "contact", "domain"}
        assert len(who["org"]) <= 200 and who["contact"].endswith(f"@{who['domain']}")
    assert (told["category"], told["type"]) == ("messaging", "spam")
    assert told["evidence_source"] == "spamtrap"
    assert told["protocol"] in ("smtp", "other")
    if told["protocol"] == "smtp":  # then both are required
        assert isinstance(told["source_port"], int) and "@" in str(told["smtp_from"])
    assert len(str(told["description"])) <= 1000
    evidence = told["evidence"]
    assert isinstance(evidence, list) and len(evidence) <= 50
    for item in evidence:
        data = base64.b64decode(item["payload"])
        assert set(item) <= {"content_type", "description", "payload", "hash", "size"}
        assert item["hash"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert item["size"] == len(data) <= 5_242_880 and len(item["description"]) <= 500


def test_xarf(run: Run, engine: Engine, settings: Settings, tmp_path: Path) -> None:
    fill(engine, settings)
    out = tmp_path / "x.json"
    words = ("report", "spam.example", "--format", "xarf", "--contact", "abuse@us.example")
    code, said = run(*words, "-o", str(out))
    assert code == 0 and "what could still name a trap" in said
    told = json.loads(out.read_text())
    check_xarf(told)
    assert told["protocol"] == "other" and "repeat" not in told
    assert "3 messages from 2026-09-21" in told["description"]
    with (tmp_path / "gatepost.toml").open("a") as config:
        config.write(captured(tmp_path / "kept"))
    assert run(*words, "-o", str(out))[0] == 0
    told = json.loads(out.read_text())
    check_xarf(told)
    assert (told["protocol"], told["source_port"]) == ("smtp", 40125)
    assert [item["content_type"] for item in told["evidence"]] == ["text/plain", "message/rfc822"]
    text = out.read_text() + "".join(
        plain(base64.b64decode(item["payload"])) for item in told["evidence"]
    )
    assert not any(needle.lower() in text.lower() for needle in NEEDLES)


@pytest.mark.parametrize("kept", [True, False])
def test_arf(run: Run, engine: Engine, settings: Settings, tmp_path: Path, kept: bool) -> None:
    fill(engine, settings)
    if kept:
        with (tmp_path / "gatepost.toml").open("a") as config:
            config.write(captured(tmp_path / "kept"))
    out = tmp_path / "x.eml"
    assert run("report", "--host", "192.0.2.7", "--format", "arf", "--contact", "abuse@us.example",
               "--org", "We", "-o", str(out))[0] == 0  # fmt: skip
    found = email.message_from_bytes(out.read_bytes())
    # RFC 5965 2: three parts, in this order.
    assert (found.get_content_type(), found.get_param("report-type")) == (
        "multipart/report", "feedback-report",
    )  # fmt: skip
    parts = [part for part in found.get_payload() if isinstance(part, Message)]
    assert [part.get_content_type() for part in parts] == [
        "text/plain", "message/feedback-report",
        "message/rfc822" if kept else "text/rfc822-headers",
    ]  # fmt: skip
    fields = parts[1].get_payload(0)
    assert isinstance(fields, Message)
    assert (fields["Feedback-Type"], fields["Version"]) == ("abuse", "1")
    assert fields["User-Agent"].startswith("gatepost/") and fields["Source-IP"] == "192.0.2.7"
    assert not any(needle.lower() in plain(out.read_bytes()).lower() for needle in NEEDLES)
    assert found["To"] is None and not found.defects


@pytest.mark.parametrize(
    ("signatures", "reason", "named"),
    [
        ((signature("spam.example"),), Reason.TRAP, True),
        ((), Reason.TRAP, False),  # anybody may write as them
        ((signature("spam.example"),), Reason.REPLAYED, False),  # somebody else sent it here
    ],
)
def test_only_who_is_proven_is_reported(
    run: Run, engine: Engine, settings: Settings, tmp_path: Path,
    signatures: tuple[Signature, ...], reason: Reason, named: bool,
) -> None:  # fmt: skip
    hit = message(1, traps=(TRAP,), to=(), sender="news@spam.example", author="news@spam.example",
                  signatures=signatures, reason=reason)  # fmt: skip
    recorder.record_batch(engine, [hit], settings)
    out = tmp_path / "x.eml"
    assert run("report", "spam.example", "--format", "arf", "--contact", "abuse@us.example",
               "-o", str(out))[0] == 0  # fmt: skip
    text = plain(out.read_bytes())
    assert ("Reported-Domain: spam.example" in text) is named
    assert ("Nothing proves that spam.example has sent" in text) is not named


def test_nothing_to_report(run: Run, engine: Engine, settings: Settings) -> None:
    recorder.record_batch(engine, [message(1)], settings)
    code, said = run("report", "sender.example", "--format", "arf", "--contact", "a@us.example")
    assert code == 1 and "no message to a trap" in said
    code, said = run("report", "sender.example", "--format", "arf")
    assert code == 2 and "--contact" in said
    code, said = run("report", "--format", "arf", "--contact", "a@us.example")
    assert code == 2 and "say whom it is about" in said
