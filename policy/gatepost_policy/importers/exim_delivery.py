"""The recipient of a delivery line of Exim's log. Pure."""

import re

from gatepost_policy.importers.common import internal

MAX_PLACES = 64
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
    if (named := _after_its_local_part(text)) is not None:
        return named
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


def _after_its_local_part(text: str) -> str | None:
    """The address in `LOCAL <LOCAL@domain>`, which Exim writes for a mailbox of its own.

    The first LOCAL is neither quoted nor escaped, so it may hold such text itself. The address is
    the last one that has all before it as its local part: a false one is shorter than that.
    """
    found: str | None = None
    at = text.find(" <")
    for _ in range(MAX_PLACES):
        if at < 0:
            break
        path = _PATH_END.match(text, at)
        if path and internal(path.group(1)).rpartition("@")[0].lower() == text[:at].lower():
            found = path.group(1)
        at = text.find(" <", at + 1)
    return found
