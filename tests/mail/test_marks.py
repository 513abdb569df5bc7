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
}


@pytest.mark.parametrize(("field", "wanted"), CASES.items())
def test_marks(field: str, wanted: str) -> None:
    name, _, value = field.partition(":")
    found = marks.read(lambda n: [value.encode()] if name == n else [])
    assert marks.text(found) == wanted
