"""Those who read Authentication-Results, and spellings to ask them about.

`spelling` makes a field value that some reader may take for one of `MX`: the name with comments,
blanks, folds, quotes, backslashes, parentheses and more put where nobody would.
"""

import json
import random
import re
import subprocess
from collections.abc import Sequence

import authres

from mta_unpack import Programs

MX = "mx.example.net"
TAIL = b" dkim=pass header.d=bank.example"
JUNK = (
    " ", "  ", "\t", "\n ", "\r\n\t", "\n\t ", "()", "(c)", "(a (b) c)", "( ; )", "(\\))", "(\\()",
    '("x")', '(")', '"', '""', "\\", "\\\\", ")", "(", ")(", "\x0b", "\x0c", "\x01", "\x7f", '\\"',
    "\\ ", "\\(", '" "', ";",
)  # fmt: skip
BEFORE = (
    "", "", "", " ", "\n\t", "(x)", "(x) ", "(;) ", "Authentication-Results:",
    "authentication-results: ", '"(x" ', "\\(x ", '"(x)" ', "(\\) ", ") ", "(a\\)b) ", "((x) ",
    '"" ', "\\",
)  # fmt: skip
BEHIND = (
    "", "", "", " 1", " (c) 1", ".", "/1", " ", "(c)", "\n ", " 1 (c)", ". 1", ")", " x=y", '"',
    "\\",
)  # fmt: skip
QUOTED = ("{}", "{}", '"{}"', "\\{}", "{})", "({}", '"{}', '{}"', "(c){}", "{}(c)")


def spelling(rng: random.Random) -> bytes:
    """One value, from its leading space to its results."""
    name = MX if rng.random() < 0.8 else "".join(rng.choice((c, c.upper())) for c in MX)
    labels = name.split(".")
    if rng.random() < 0.35:
        which = rng.randrange(3)
        labels[which] = rng.choice(QUOTED).format(labels[which])
    dot = (
        "." if rng.random() < 0.7 else rng.choice((" .", ". ", ".\n ", "(c).", '"."', "\\.", ".)"))
    )
    text = dot.join(labels)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(JUNK) + text[at:]
    if rng.random() < 0.1:
        text = f'"{text}"'
    text = rng.choice(BEFORE) + text + rng.choice(BEHIND)
    # A fold that lost its blank would end the header.
    text = re.sub(r"\n(?![ \t])", "\n ", text)
    return b" " + text.encode() + b";" + TAIL


# Pieces that readers treat differently, with octets that are blanks to some of them.
PIECES = (
    b" ", b"\n ", b"\t", b"(", b")", b'"', b"\\", b";", b"/", b"=", b",", b":", b"<", b">", b"@",
    b".", b"1", b"()", b"(x)", b"(;)", b"(\\))", b'"(" ', b'";"', b'"(x)"', b'"("', b'")"', b"\\(",
    b"\\)", b'"a b"', b"[", b"]", b"{", b"|", b"\x0b", b"\x0c", b"\x80", b"\x85", b"\xa0", b"\xff",
    b"\xc2\xa0", b"\xe2\x80\x8b", b"x", b"mx", b"Authentication-Results:",
)  # fmt: skip


def mutation(rng: random.Random) -> bytes:
    """One value: our name, or a spelling of it, with some octets put in, taken out and replaced."""
    text = b" " + MX.encode()
    if rng.random() < 0.3:
        text = spelling(rng).partition(b";")[0]
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 6))):
        at = rng.choice((0, 1, len(text), rng.randrange(len(text) + 1)))
        piece = rng.choice(PIECES) if rng.random() < 0.8 else bytes([rng.randrange(1, 256)])
        what = rng.random()
        if what < 0.85:
            text = text[:at] + piece + text[at + (what >= 0.75) :]
        else:
            text = text[:at] + text[at + 1 :]
    text += rng.choice((b";", b";", b";", b";", b";", b" ", b"")) + TAIL
    return re.sub(rb"\n(?![ \t])", b"\n ", text.replace(b"\r", b" "))


def authres_name(value: bytes) -> str | None:
    """Whose field this is to authres; None where it cannot tell."""
    text = value.decode("utf-8", "replace").replace("\r\n", "").replace("\n", "").strip()
    try:
        found = authres.AuthenticationResultsHeader.parse_value(text)
    except (authres.AuthResError, AttributeError, RecursionError):
        return None
    return str(found.authserv_id)


SCRIPT = """
use strict; use warnings; use JSON; use Mail::AuthenticationResults::Parser;
while (my $line = <STDIN>) {
    my $value = decode_json($line)->[0];
    my $parser = Mail::AuthenticationResults::Parser->new();
    my $found = eval { $parser->parse($value)->value()->value() };
    print encode_json([$found]), "\\n";
}
"""


def perl_names(programs: Programs, values: Sequence[bytes]) -> list[str | None]:
    """Whose fields these are to Mail::AuthenticationResults; None where it cannot tell."""
    folders = [programs.root / "usr/share/perl5", *(programs.root / "usr/lib").glob("*/perl5/*")]
    asked = "".join(json.dumps([value.decode("latin-1")]) + "\n" for value in values)
    done = subprocess.run(
        ["perl", *(f"-I{folder}" for folder in folders), "-e", SCRIPT],
        input=asked, capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    return [json.loads(line)[0] for line in done.stdout.splitlines()]
