"""Make a reply text or a field's value safe to send in a packet. Pure.

Rules: `%` is doubled in replies, because the MTA reads it as the start of a sequence (and pymilter
raises over a single one); CR and LF never get into a value, so one field stays one field.
"""


def reply_text(text: str) -> str:
    """`text` as a reply carries it: one line of printable ASCII, `%` doubled."""
    # RFC 5321 4.2.1: a reply line is printable ASCII; RFC 5321 4.5.3.1.5: 512 octets with CRLF.
    line = "".join(c if " " <= c <= "~" else " " for c in text)[:480].strip()
    return (line or "Refused").replace("%", "%%")


def field_value(value: str, leading_space: bool = True) -> str:
    """`value` without CR, and with every LF followed by a blank.

    Without `leading_space` (SMFIP_HDR_LEADSPC) the MTA puts a space in front of it by itself.
    """
    if "\r" in value:
        value = value.replace("\r", "")
    if "\n" in value:
        head, *rest = value.split("\n")
        value = head + "".join(
            "\n" + (line if line[:1] in (" ", "\t") else "\t" + line) for line in rest if line
        )
    return value if leading_space else value.removeprefix(" ")
