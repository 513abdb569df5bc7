"""Find addresses that a text contains in coded form. Pure.

In links and bounce addresses the recipient's address may be percent-encoded, written with entities,
in base64 or hexadecimal, or as a digest. `Disguises` says whether one of its addresses is in a word
of a text, or in a few lines of base64. Its input must be short.

Limits: an encrypted address, a number from the sender's database, and digests that are salted or
cut to fewer than 16 digits are not found; `masking.remaining` warns the reporter of them.
"""

import base64
import codecs
import hashlib
import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from urllib.parse import unquote

DIGESTS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "blake2s")
HEAD = 6  # characters of a name by which it is looked up
SLICE = 16  # characters of a digest that are enough to know it
DEEPEST = 3  # codings inside of one another
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]")
_TAG = re.compile(r"<[^<>]{0,200}>")
_ESCAPE = re.compile(r"\\(?:u00|x)([0-9a-f]{2})", re.I)
_QP = re.compile(r"=([0-9A-F]{2})", re.I)
_RUN = re.compile(r"[A-Za-z0-9+/_-]{11,}")
_HEX = re.compile(r"(?:[0-9a-f]{2}[ :,-]?){8,}", re.I)
_BETWEEN = re.compile(r"[\W_]+")
_PRINTABLE = re.compile(r"[!-~]{16,}")
_BASE32 = re.compile(r"[A-Z2-7]{16,}")
_BASE64URL = str.maketrans("-_", "+/")


def _octet(match: re.Match[str]) -> str:
    return chr(int(match.group(1), 16))


# (characters that a text must contain, the function that then removes one encoding)
_PLAINER: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("<", lambda text: _TAG.sub("", text)),
    ("&", html.unescape),
    ("%", unquote),
    ("=", lambda text: _QP.sub(_octet, text)),
    ("\\", lambda text: _ESCAPE.sub(_octet, text)),
    ("\\", lambda text: re.sub(r"\\(.)", r"\1", text)),  # RFC 5322 3.2.1: a quoted pair
)


class Disguises:
    """Finds `names` (addresses and long local parts) in coded text. `within(word)`: True where
    `word` contains one of them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._slices: set[str] = set()
        self._heads: dict[str, set[str]] = {}
        for name in names:
            bare = squeezed(name)
            for core in (bare, bare[::-1], codecs.encode(bare, "rot13")):
                self._heads.setdefault(core[:HEAD], set()).add(core)
            for text in {name, name.lower(), name.upper(), f"{name.lower()}\n"}:
                self._slices.update(_digests(text.encode("utf-8", "surrogateescape")))
        self.within = lru_cache(maxsize=65_536)(self._within)

    def _within(self, word: str, depth: int = 0) -> bool:
        """True where `word` contains one of the names, in `depth` codings so far."""
        return bool(self._heads) and any(
            self._names(text) or self._coded(text, depth) for text in _plainer(word)
        )

    def _names(self, text: str) -> bool:
        """True where a name is in `text`; other characters between its letters do not matter."""
        bare = squeezed(text)
        for at in range(len(bare) - HEAD + 1):
            cores = self._heads.get(bare[at : at + HEAD])
            if cores and any(bare.startswith(core, at) for core in cores):
                return True
        return False

    def _coded(self, text: str, depth: int) -> bool:
        for run in _RUN.findall(text):
            if self._is_digest(run):
                return True
            if depth < DEEPEST and any(self._tells(octets, depth) for octets in _decoded(run)):
                return True
        return any(
            self._tells(bytes.fromhex(digits), depth)
            for digits in (re.sub(r"[^0-9A-Fa-f]", "", run) for run in _HEX.findall(text))
        )

    def _is_digest(self, run: str) -> bool:
        folded, standard = run.lower(), run.translate(_BASE64URL)
        return any(
            folded[at : at + SLICE] in self._slices or standard[at : at + SLICE] in self._slices
            for at in range(len(run) - SLICE + 1)
        )

    def _tells(self, octets: bytes, depth: int) -> bool:
        text = octets.replace(b"\0", b"").decode("latin-1")  # UTF-16 has zeros in it
        return self._names(text) or (
            depth + 1 < DEEPEST
            and any(self._within(inner, depth + 1) for inner in _PRINTABLE.findall(text))
        )


def squeezed(text: str) -> str:
    """The letters and digits of `text` alone."""
    return _BETWEEN.sub("", text.lower())


def _plainer(word: str) -> Iterator[str]:
    """`word`, and its forms after one or more encodings were removed, at most DEEPEST."""
    if not word.isascii():
        word = _INVISIBLE.sub("", unicodedata.normalize("NFKC", word))
    yield word
    seen, todo = {word}, [word]
    for _ in range(DEEPEST):
        found = {plainer(text) for text in todo for mark, plainer in _PLAINER if mark in text}
        found -= seen
        yield from found
        seen |= found
        todo = list(found)[:8]


def _digests(octets: bytes) -> Iterator[str]:
    """The first characters of each digest, as they are written in hexadecimal, base64, base32."""
    for name in DIGESTS:
        digest = hashlib.new(name, octets, usedforsecurity=False).digest()
        yield digest.hex()[:SLICE]
        yield base64.b64encode(digest).decode("ascii")[:SLICE]
        yield base64.b32encode(digest).decode("ascii")[:SLICE].lower()


def _decoded(run: str) -> Iterator[bytes]:
    """The octets that a run of characters gives in base64 and base32, for each possible start."""
    standard = run.translate(_BASE64URL)
    for start in range(4):
        part = standard[start : start + (len(standard) - start) // 4 * 4]
        rest = standard[start + len(part) :]
        yield base64.b64decode(part + (rest + "=" * (4 - len(rest)) if len(rest) > 1 else ""))
    for upper in _BASE32.findall(run.upper()):
        for start in range(8):
            part = upper[start : start + (len(upper) - start) // 8 * 8]
            rest = upper[start + len(part) :]
            filled = rest + "=" * (8 - len(rest)) if len(rest) in (2, 4, 5, 7) else ""
            yield base64.b32decode(part + filled)
