"""Make text from messages harmless to show: one line, in which every character is visible.

Pure. Characters that a terminal, a spreadsheet or a log reader might act on are written as escapes:
control characters, bidi marks, line separators, unpaired surrogates, characters without a glyph.
"""


def shown(text: str) -> str:
    """`text`, where every character that is not printable is written as `\\x1b`, `\\u202e` etc.

    The plain space stays; other blanks (no-break, ideographic) are escaped, because they look the
    same.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def utf8(text: str) -> str:
    """`text` with unpaired surrogates escaped: octets of a command line that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def error_text(error: BaseException) -> str:
    """What went wrong in one line; of an error of the operating system its file and the reason."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{shown(str(error.filename))}: {error.strerror}"
    return str(error)
