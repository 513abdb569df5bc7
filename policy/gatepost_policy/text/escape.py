"""Show what strangers wrote so that it stays what it is: text, in one line, that does nothing.

Pure. Whatever a terminal, a spreadsheet or a log reader might act on is written as an escape:
control characters, bidi marks, line separators, unpaired surrogates, characters without a glyph.
"""


def shown(text: str) -> str:
    """`text` with every character that does not simply print as `\\x1b`, `\\u202e` and so on.

    A plain space prints; other blanks (no-break, ideographic) are escaped, as they pass for it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def utf8(text: str) -> str:
    """`text` without unpaired surrogates (bytes of a command line that are no UTF-8)."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
