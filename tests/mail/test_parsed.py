"""Messages that are nested to no end: what reads whole messages answers all the same."""

import base64
from pathlib import Path

import pytest

from gatepost_policy import tracing
from gatepost_policy.mail.parsed import parsed
from gatepost_policy.report import masking
from gatepost_policy.retention import person_files
from gatepost_policy.tracing import keys

NAME = b"From: a@sender.example\nSubject: x\nMIME-Version: 1.0\n"
MIXED = b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n'
KEY = base64.urlsafe_b64encode(bytes(32)).decode()
DEEP = {
    "parts": NAME + b"".join(MIXED % (n, n) for n in range(3000)) + b"\nx@home.example\n",
    "messages": NAME + b"Content-Type: message/rfc822\n\n" * 3000 + b"x@home.example\n",
}


@pytest.mark.parametrize("what", DEEP)
def test_a_message_nested_to_no_end(what: str, tmp_path: Path) -> None:
    data = DEEP[what]
    assert parsed(data)["Subject"] == "x"
    assert len(list(parsed(data).walk())) == 1
    masked = masking.message(data, masking.Masks(["x@home.example"]))
    assert b"x@home.example" not in masked and b"Subject: x" in masked
    (tmp_path / "1.eml").write_bytes(data)
    wanted = person_files.pattern("y", "home.example")
    assert list(person_files.captures(tmp_path, wanted)) == []
    (tmp_path / keys.MAC_FILE).write_text(KEY)
    found = tracing.resolve(data, tracing.Keyring(tmp_path))
    assert found.outcome is tracing.Outcome.NO_TOKEN


def test_what_can_be_walked_is_whole() -> None:
    data = NAME + b"".join(MIXED % (n, n) for n in range(20)) + b"\nx\n"
    assert len(list(parsed(data).walk())) == 21
