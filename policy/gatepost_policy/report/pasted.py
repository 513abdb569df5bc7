"""Remove what surrounds a pasted name: quotes, a display name, a log's `client=`, a URL. Pure.

People copy names from log lines, mail programs and chats. Callers use this only for a text that is
no valid name or that the store does not know.

Limits: of a log line with several names only the queue id is taken, else the client in brackets.
"""

import re

# Invisible characters that programs copy along: zero-width and bidi marks.
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e"
_BLANKS = " \t\r\n\xa0" + _INVISIBLE
_PAIRS = ("''", '""', "``", "()", "[]", "<>", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb")
# `from=<a@b>` of Postfix, `F=<a@b>` and `H=host` of Exim, the fields of a message, `d=` of DKIM.
_NAMED = re.compile(
    r"(?:(?:orig_)?to|from|sender|recipient|rcpt|client|relay|helo|host|message-id|id|d|f|h|mailto"
    r"|return-path|reply-to|x-originating-ip|envelope-from|smtp\.mailfrom|header\.(?:from|d|i)"
    r"|queue[ -]?id|ip)\s*[:=]\s*(?=\S)",
    re.IGNORECASE,
)
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,9}://(?:[^/@\s]*@)?(\[[^\]\s]*\]|[^/:?#\s]+)", re.IGNORECASE)
# example[.]org, user[at]example[dot]org: "defanged", so that it is no link.
_DOT = re.compile(r"\s*[\[({]\s*(?:\.|dot)\s*[\])}]\s*", re.IGNORECASE)
_AT = re.compile(r"\s*[\[({]\s*(?:@|at)\s*[\])}]\s*", re.IGNORECASE)
_ANGLE = re.compile(r"<([^<>\s]*@[^<>\s]*)>")
# A client as a log has it: name[192.0.2.1], name (helo) [2001:db8::1]:25.
_CLIENT = re.compile(r"\[(?:IPv6:)?([0-9a-f.:]{2,45})\](?::\d{1,5})?", re.IGNORECASE)
_PORT = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]+\]):\d{1,5}\Z", re.IGNORECASE)
_TAGGED = re.compile(r"\[?IPv6:([0-9a-f:.]+)\]?\Z", re.IGNORECASE)
_POSTFIX_LINE = re.compile(r"\w\[\d+\]: ([0-9A-Za-z]{5,24}): ")
_EXIM_LINE = re.compile(
    r"(?<![\w-])([0-9A-Za-z]{6}-[0-9A-Za-z]{6}(?:[0-9A-Za-z]{5})?-[0-9A-Za-z]{2,4})(?![\w-])"
)
STEPS = 6  # layers that are taken off, at most


def readings(text: str) -> list[str]:
    """What `text` may mean: itself first, then with one layer after the other removed."""
    found: list[str] = []
    text = text.strip(_BLANKS)
    for _ in range(STEPS):
        if text and text not in found:
            found.append(text)
        inner = _inner(text)
        if inner is None or not inner:
            break
        text = inner
    return found


def _inner(text: str) -> str | None:
    """`text` without its outermost layer; None where nothing surrounds it."""
    if line := _POSTFIX_LINE.search(text) or (_EXIM_LINE.search(text) if " " in text else None):
        return line.group(1)
    if url := _URL.match(text):
        return url.group(1)
    plain = _AT.sub("@", _DOT.sub(".", text))
    if plain != text:
        return re.sub(r"\Ahxxp", "http", plain, flags=re.IGNORECASE)
    bare = text.rstrip(",;:" + _BLANKS)
    if bare != text and not bare.endswith(":"):
        return bare
    if named := _NAMED.match(text):
        rest = text[named.end() :].strip(_BLANKS)
        return rest.partition("?")[0] if text[:7].lower() == "mailto:" else rest
    for pair in _PAIRS:
        if len(text) > 2 and text[0] == pair[0] and text[-1] == pair[1]:
            if pair == "<>" and "@" in text:
                break  # an address or a Message-ID as it is written
            if pair == "[]" and _TAGGED.match(text):
                break
            return text[1:-1].strip(_BLANKS)
    if tagged := _TAGGED.match(text):
        return tagged.group(1)
    if port := _PORT.match(text):
        return port.group(1)
    if not _is_literal(text) and (client := _CLIENT.search(text)):
        return client.group(1)
    angles = _ANGLE.findall(text)
    if len(angles) == 1 and text != f"<{angles[0]}>":
        return str(angles[0])
    return None


def _is_literal(text: str) -> bool:
    """True for user@[192.0.2.1]: a mail address with an address literal (RFC 5321 4.1.3)."""
    return re.fullmatch(r"<?[^\s<>]+@\[[^\]\s]+\]>?", text) is not None
