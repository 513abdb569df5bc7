"""Carry a Decision out through libmilter: header edits, recipients, the reply.

The only place that knows pymilter's rules: `%` is doubled in replies (a single one raises, and a
swallowed exception would accept the mail), CR and LF never get into a value, and only text that
is UTF-8 can be written at all.
"""

from typing import Any

import milter

from gatepost_policy.mail.decision import Action, Decision, Edit, Reply

ANSWERS = {
    Action.ACCEPT: milter.ACCEPT,
    Action.REJECT: milter.REJECT,
    Action.TEMPFAIL: milter.TEMPFAIL,
    Action.DISCARD: milter.DISCARD,
}


def reply_text(text: str) -> str:
    """`text` as setreply wants it: one line of printable ASCII, `%` doubled."""
    # RFC 5321 4.2.1: a reply line is printable ASCII; RFC 5321 4.5.3.1.5: 512 octets with CRLF.
    line = "".join(c if " " <= c <= "~" else " " for c in text)[:480].strip()
    return (line or "Refused").replace("%", "%%")


def refuse(ctx: Any, reply: Reply, answer: int) -> int:
    """Set `reply` and hand back `answer` (milter.REJECT or milter.TEMPFAIL)."""
    ctx.setreply(str(reply.code), reply.status, reply_text(reply.text))
    return answer


def carry_out(
    ctx: Any, decision: Decision, edits: tuple[Edit, ...], leading_space: bool = True
) -> int:
    """Do at end of message what was decided; the value is what the callback returns.

    Without `leading_space` (P_HDR_LEADSPC) the MTA puts one in front of every value itself.
    Raises milter.error or ValueError where the MTA or pymilter refuses: nothing has been
    answered then, and the caller's stance decides.
    """
    answer = int(ANSWERS[decision.action])
    if decision.action is not Action.ACCEPT:
        if decision.reply is not None:
            refuse(ctx, decision.reply, answer)
        return answer
    for edit in edits:
        value = clean(edit.value or "")
        if not leading_space:
            value = value.removeprefix(" ")
        if edit.op == "insert":
            ctx.addheader(edit.name, value, edit.index)
        elif edit.op == "change":
            ctx.chgheader(edit.name, edit.index, value)
        else:
            # libmilter: an empty value deletes the field.
            ctx.chgheader(edit.name, edit.index, "")
    for recipient in decision.drop_recipients:
        ctx.delrcpt(f"<{recipient}>")
    return answer


def clean(value: str) -> str:
    """`value` without CR, and with every LF followed by a blank: one field stays one field."""
    if "\r" in value:
        value = value.replace("\r", "")
    if "\n" in value:
        head, *rest = value.split("\n")
        value = head + "".join(
            "\n" + (line if line[:1] in (" ", "\t") else "\t" + line) for line in rest if line
        )
    return value
