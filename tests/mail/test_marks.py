"""What a header says that a message is."""

import pytest

from gatepost_policy.mail import marks

CASES = {
    "": "",
    "list-id: <a.example>": "list",
    "precedence: List": "list",
    "precedence: bulk": "",
    "precedence: auto_reply": "auto",
    "auto-submitted: auto-replied; owner-email=x@a.example": "auto",
    "auto-submitted: No": "",
    "auto-submitted:": "",
    "content-type: Multipart/Report; report-type=delivery-status": "report",
    "references: <a@b.example>": "reply",
    "content-type: text/calendar; charset=utf-8;\r\n method=REPLY": "reply",
    'content-type: Text/Calendar; method="COUNTER"; component=VEVENT': "reply",
    "content-type: text/calendar; method=REQUEST": "",
    "content-type: text/calendar; name=reply.ics; method=PUBLISH": "",
    "content-type: text/plain; method=REPLY": "",
    "list-post: <mailto:chat@club.example>": "list",
    "list-post: NO": "",
    "mailing-list: contact chat-help@old.example; run by ezmlm": "list",
    "x-beenthere: chat@club.example": "list",
    "list-unsubscribe: <mailto:u@shop.example>": "",
    "x-autoreply: yes": "auto",
    "x-autorespond: ": "auto",
    "precedence: Auto-Reply": "auto",
    # 22 octets begin a conversation, 27 answer it.
    "thread-index: AdohUA8OAAAAAQIDBAUGBwgJCgsMDQ==": "",
    "thread-index: AdohUA8OAAAAAQIDBAUGBwgJCgsMDQAAAAAA": "reply",
    "thread-topic: Re: offer": "",
}
ANSWER = b"--b\r\nContent-Type: text/plain\r\n\r\nyes\r\n--b\r\n"
PARTS = {
    ANSWER + b"Content-Type: text/calendar;\r\n\tmethod=REPLY\r\n\r\nBEGIN\r\n--b--": "reply",
    ANSWER + b"X-A: b\r\ncontent-TYPE: Text/Calendar; method=\"counter\"\r\n\r\nx": "reply",
    ANSWER + b"Content-Type: text/calendar; method=REQUEST\r\n\r\nmethod=REPLY": "",
    # A line of the text, not of a part's header.
    ANSWER + b"\r\nContent-Type: text/calendar; method=REPLY\r\n": "",
    b"Content-Type: text/calendar; method=REPLY\r\n\r\n": "",
    b"--\n" * 9000 + b"--" + b"a: b\n" * 9000: "",
    b"": "",
}  # fmt: skip


@pytest.mark.parametrize(("body", "wanted"), PARTS.items())
def test_marks_of_parts(body: bytes, wanted: str) -> None:
    assert marks.text(marks.of_parts(body)) == wanted


def test_only_what_has_parts_is_looked_into() -> None:
    kinds = {b" multipart/alternative; boundary=b": True, b"\n\tMultipart/Mixed": True,
             b" text/plain": False}  # fmt: skip
    for value, wanted in kinds.items():
        fields = {"content-type": [value]}
        assert marks.has_parts(lambda name: fields.get(name, [])) is wanted  # noqa: B023
    assert not marks.has_parts(lambda name: [])


@pytest.mark.parametrize(("field", "wanted"), CASES.items())
def test_marks(field: str, wanted: str) -> None:
    name, _, value = field.partition(":")
    found = marks.read(lambda n: [value.encode()] if name == n else [])
    assert marks.text(found) == wanted
