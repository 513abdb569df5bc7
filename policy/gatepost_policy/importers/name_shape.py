"""Which login names may be recorded: not one that may be a password or base64 of a login. Pure.

A client with a fault may send its password in place of the name, and some MTAs log the base64 text
of the login. Such names are dropped before anything is recorded.

Limits: a password that looks like a name (`sunshine`) is not recognised.
"""

import re
from base64 import b64decode
from binascii import Error
from collections import Counter
from math import log2

MAX_OCTETS = 64  # RFC 5321 4.5.3.1.1
_PLAIN = re.compile(r"[^\W_](?:[\w.+'-]*[^\W_])?\Z")
# Most names: small letters, short (then also with digits behind the first) or with a vowel, perhaps
# with a domain. It decides nothing that `_looks_random` would not: it is only quicker.
_WORD = re.compile(
    r"(?:[a-z][a-z0-9]{0,6}|(?=[a-z]*[aeiouy])[a-z]{8,40})(?:@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,10})?\Z"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{8,}\Z")
_HEX = re.compile(r"[0-9a-f]{12,}\Z", re.I)
_VOWEL = re.compile(r"[aeiouyäöüáéíóúàèâêåøæ]", re.I)
_TURN = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
LONG = 8  # characters; in a shorter name chance looks like a pattern
MAX_TURNS = 2  # between letters and digits
RANDOM_LENGTH = 16
RANDOM_BITS = 3.6  # entropy of one character


def may_be_kept(name: str) -> bool:
    """True where `name` (a login or an address, as received) looks like a person's name."""
    if _WORD.match(name):
        return True
    local, _, domain = name.rpartition("@") if "@" in name else (name, "", "")
    if len(local.encode("utf-8", "surrogateescape")) > MAX_OCTETS or len(domain) > 255:
        return False
    if not name.isprintable() or not _PLAIN.match(local):
        return False
    # Not `P@ssw0rd`: a domain has a dot.
    if "@" in name and not re.fullmatch(r"[\w-]+(?:\.[\w-]+)+", domain):
        return False
    return not _looks_random(local)


def _looks_random(local: str) -> bool:
    letters = [c for c in local if c.isalpha()]
    if not letters:
        return True  # only digits: it may be a PIN
    digits = any(c.isdigit() for c in local)
    if len(local) < LONG:
        # `Bob7` is a name, `aGVsbG8` is none.
        return digits and any(c.isupper() for c in local[1:]) and any(c.islower() for c in local)
    upper = sum(c.isupper() for c in letters)
    # `Meyer` and `ALICE` are names; `tRoub4dor` and `Passw0rd` are none.
    if digits and 0 < upper < len(letters):
        return True
    if upper and re.search(r"[a-z][A-Z].*[A-Z]|[A-Z]{2}[a-z].*[A-Z]", local):
        return True
    if len(_TURN.findall(local)) > MAX_TURNS or (digits and _HEX.match(local)):
        return True
    if len(letters) >= LONG and local.isascii() and not _VOWEL.search(local):
        return True
    if digits and len(local) >= RANDOM_LENGTH and _entropy(local) > RANDOM_BITS:
        return True
    return _is_base64(local, digits or 0 < upper < len(letters))


def _is_base64(local: str, mixed: bool) -> bool:
    """True where `local` is base64 of printable text. Not `mixed` (letters of one case, no digits):
    that often decodes by chance, and is a name."""
    if not mixed or not _BASE64.match(local):
        return False
    try:
        decoded = b64decode(local + "=" * (-len(local) % 4), validate=True)
    except Error:
        return False
    return all(0x20 <= octet < 0x7F for octet in decoded)


def _entropy(text: str) -> float:
    """Entropy in bits per character (Shannon), by how often each character occurs."""
    size = len(text)
    return -sum(n / size * log2(n / size) for n in Counter(text).values())
