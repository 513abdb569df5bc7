"""The recipient of a delivery line of Exim's log. Pure."""

import re

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_DELIVERED = re.compile(rf"{_QUOTED}\S*|\S+")


_PARENT = re.compile(rf" \([^()]*\)| <((?:{_QUOTED}|[^\"<>])*)>")


_PATH_END = re.compile(rf" <((?:{_QUOTED}|[^\"<>])*)>(?= [A-Z][A-Z0-9]*=|: |\Z)")


def read_recipient(text: str) -> str | None:
    """The address that the sender used, from the text after a delivery line's arrow, else None.

    Forms: `address`, `address <original address>`, `:blackhole: <address>`, `/file <address>`.
    """
    if text.startswith("blackhole ("):
        return None  # "blackhole (RCPT ACL discarded recipients)": those have lines of their own
    if text[:1] in ("/", "|"):
        # A path or a command, which may hold blanks; the recipient is the address after it.
        found = _PATH_END.search(text)
        return found.group(1) or None if found is not None else None
    first = _DELIVERED.match(text)
    if first is None:
        return None
    at, last = first.end(), None
    while parent := _PARENT.match(text, at):
        if parent.group(1) is not None:
            last = parent.group(1)
        at = parent.end()
    if last:
        return last
    word = first.group().rstrip(":") if first.group().endswith(":") else first.group()
    return word if word and word[0] not in ":/|" else None
