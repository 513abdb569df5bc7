"""Make the messages the benchmarks are run on: signed, reproducible, one in ten broken.

    python bench/corpus.py DIRECTORY [--small N] [--medium N] [--large N]

Sets (`SIZE-CANON/NNNN.pass.eml` and `.fail.eml`, CRLF):

* small, about 3.8 KB: a person's mail with a signature block and odd blanks;
* medium, about 74 KB: an HTML newsletter, a quarter of it blanks and tabs, which is what relaxed
  body canonicalization (RFC 6376 3.4.4) has to work on;
* large, about 2.2 MB: an attachment in base64;

`rr` is relaxed/relaxed, `rs` relaxed/simple, `ed` an Ed25519 key with relaxed/relaxed. Half of
the broken ones lost a letter of the body, half had their Subject changed. `zone.conf` holds the
keys, SPF and DMARC of each domain as unbound's local-data, `zone.json` the same for `milterctl
replay --dns`.
Keys are made once for a directory and kept; all else follows from them and SEED.
"""

import argparse
import base64
import json
import random
import textwrap
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

SEED = 6376
SIGNED_AT = 1_750_000_000  # t= of every signature, Unix seconds
CLIENT = "192.0.2.10"  # as load.c says
DOMAINS = 16
CANON = {"rr": b"relaxed", "rs": b"simple", "ed": b"relaxed"}
NOUNS = (
    "harbour lighthouse ferry timetable bakery orchard bicycle garden library concert ticket "
    "letter parcel kettle window staircase neighbour weather holiday recipe meeting notebook "
    "ladder workshop market bridge river station platform blanket"
).split()
VERBS = "brought forgot painted ordered borrowed repaired counted sorted moved opened sold".split()
SIGNED_FIELDS = (
    "from to cc subject date message-id reply-to references in-reply-to mime-version content-type"
).split()


def key_of(directory: Path, kind: str, number: int) -> tuple[bytes, str]:
    """(private key as dkimpy wants it, TXT record) of one domain; made on first use."""
    path = directory / "keys" / f"{kind}{number}.key"
    if kind == "ed":
        if not path.exists():
            secret = ed25519.Ed25519PrivateKey.generate()
            path.write_bytes(base64.b64encode(secret.private_bytes_raw()))
        raw = path.read_bytes()
        public = ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(raw)).public_key()
        record = base64.b64encode(public.public_bytes_raw()).decode()
        return raw, f"v=DKIM1; k=ed25519; p={record}"
    if not path.exists():
        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        path.write_bytes(
            made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
    raw = path.read_bytes()
    der = (
        load_pem_private_key(raw, None)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return raw, f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"


def sentence(dice: random.Random) -> str:
    """Something somebody might have written."""
    subject, thing = dice.sample(NOUNS, 2)
    return f"The {subject} {dice.choice(VERBS)} the {thing} on day {dice.randrange(1, 29)}."


def paragraph(dice: random.Random, sentences: int) -> list[str]:
    return textwrap.wrap(" ".join(sentence(dice) for _ in range(sentences)), 74) + [""]


def small_body(dice: random.Random) -> list[str]:
    lines: list[str] = []
    while sum(map(len, lines)) < 1700:
        lines += paragraph(dice, dice.randrange(3, 8))
    return [*lines, "-- ", "A  person   with double blanks", "\tand a tab \t ", "", "", ""]


def medium_body(dice: random.Random) -> list[str]:
    lines = ["<!doctype html>", "<html>", "<body>"]
    size = 0
    while size < 72_500:
        deep = dice.randrange(2, 10)
        block = [
            " " * deep + '<table   width="100%"  border="0" > ',
            "\t" * (deep // 2) + "<tr>\t<td>",
        ]
        block += [" " * (deep + 4) + line + " " * dice.randrange(4) for line in paragraph(dice, 5)]
        block += ["\t" * (deep // 2) + "</td>  </tr>\t", " " * deep + "</table>", ""]
        size += sum(len(line) + 2 for line in block)
        lines += block
    return [*lines, "</body>", "</html>", "", ""]


def large_body(dice: random.Random) -> list[str]:
    encoded = base64.b64encode(dice.randbytes(1_610_000)).decode()
    return paragraph(dice, 12) + [encoded[i : i + 76] for i in range(0, len(encoded), 76)] + [""]


BODIES = {"small": small_body, "medium": medium_body, "large": large_body}
TYPES = {
    "small": "text/plain; charset=utf-8",
    "medium": "text/html; charset=utf-8",
    "large": 'application/octet-stream;\r\n\tname="attachment.bin"',
}


def header_fields(dice: random.Random, domain: str, size: str, number: int) -> list[str]:
    """About 1.6 KB of header, as mail that passed three relays has."""
    trace = [
        f"Received: from relay{hop}.{domain} (relay{hop}.{domain} [198.51.100.{hop + 1}])\r\n"
        f"\tby relay{hop + 1}.{domain} (Postfix) with ESMTPS id {dice.getrandbits(48):012X}\r\n"
        f"\tfor <user@example.net>; Sun, 15 Jun 2025 15:0{3 - hop}:{number % 60:02d} +0000 (UTC)"
        for hop in range(3)
    ]
    reference = f"<{dice.getrandbits(100):025x}@{domain}>"
    return [
        *trace,
        f'From: "Correspondent {number}" <writer{number}@{domain}>',
        'To: "The Reader" <user@example.net>,\r\n  "Somebody Else" <other@example.net>',
        "Cc: archive@example.net",
        f"Subject: {sentence(dice)} ({number})",
        f"Date: Sun, 15 Jun 2025 15:00:{number % 60:02d} +0000",
        f"Message-ID: <{dice.getrandbits(100):025x}@{domain}>",
        f"References: <{dice.getrandbits(100):025x}@{domain}>\r\n\t{reference}",
        f"In-Reply-To: {reference}",
        f"Reply-To: answers@{domain}",
        "MIME-Version: 1.0",
        f"Content-Type: {TYPES[size]}",
        "X-Mailer: benchmark",
        f"List-Unsubscribe: <mailto:leave-{number}@{domain}>,\r\n\t<https://{domain}/leave/{number}>",
        f"X-Abuse: tell postmaster@{domain} about number {number}",
    ]


def break_it(message: bytes, way: str) -> bytes:
    """`message` with one change that the signature must notice."""
    if way == "subject":
        return message.replace(b"\r\nSubject: ", b"\r\nSubject: Re: ", 1)
    at = message.index(b"\r\n\r\n") + (len(message) - message.index(b"\r\n\r\n")) // 2
    while not message[at : at + 1].isalpha():
        at += 1
    return message[:at] + (b"z" if message[at : at + 1] != b"z" else b"y") + message[at + 1 :]


def make(job: tuple[Path, str, str, int]) -> int:
    """Write one message; returns its size in octets."""
    directory, size, canon, number = job
    dice = random.Random(f"{SEED}-{size}-{canon}-{number}")
    kind = "ed" if canon == "ed" else "rsa"
    owner = number % DOMAINS
    domain = f"{kind}{owner}.example.com"
    lines = header_fields(dice, domain, size, number) + ["", *BODIES[size](dice)]
    message = "\r\n".join(lines).encode() + b"\r\n"
    dkim.time.time = lambda: SIGNED_AT  # t= comes from dkimpy's own clock
    signature = dkim.sign(
        message,
        b"bench",
        domain.encode(),
        key_of(directory, kind, owner)[0],
        canonicalize=(b"relaxed", CANON[canon]),
        include_headers=[field.encode() for field in SIGNED_FIELDS],
        signature_algorithm=b"ed25519-sha256" if kind == "ed" else b"rsa-sha256",
    )
    message = signature + message
    broken = number % 10 == 3
    if broken:
        message = break_it(message, "subject" if number % 20 == 3 else "body")
    name = f"{number:04d}.{'fail' if broken else 'pass'}.eml"
    (directory / f"{size}-{canon}" / name).write_bytes(message)
    return len(message)


def main() -> None:
    """Make the sets and the zone."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("directory", type=Path)
    for size, count in (("small", 200), ("medium", 200), ("large", 20)):
        arguments.add_argument(f"--{size}", type=int, default=count)
    given = arguments.parse_args()
    directory: Path = given.directory
    (directory / "keys").mkdir(parents=True, exist_ok=True)
    records = {
        f"bench._domainkey.{kind}{n}.example.com": key_of(directory, kind, n)[1]
        for kind in ("rsa", "ed")
        for n in range(DOMAINS)
    }
    for name in [f"{kind}{n}.example.com" for kind in ("rsa", "ed") for n in range(DOMAINS)]:
        records[name] = f"v=spf1 ip4:{CLIENT} -all"
        records[f"_dmarc.{name}"] = "v=DMARC1; p=reject"
    records["mail.example.com"] = f"v=spf1 ip4:{CLIENT} -all"
    (directory / "zone.json").write_text(json.dumps(records, indent=1))
    # With an SOA a resolver may remember what there is not (RFC 2308 5).
    zone = [
        'local-zone: "com." static',  # DMARC's walk ends there (RFC 9989 4.10)
        "local-data: 'com. 3600 IN SOA ns.com. root.com. 1 2 3 4 3600'",
        'local-zone: "example.com." static',
        "local-data: 'example.com. 3600 IN SOA ns.example.com. root.example.com. 1 2 3 4 3600'",
    ]
    for name, text in records.items():
        # RFC 1035 3.3.14: one character-string holds at most 255 octets.
        parts = " ".join(f'"{text[i : i + 250]}"' for i in range(0, len(text), 250))
        zone.append(f"local-data: '{name}. 3600 IN TXT {parts}'")
    (directory / "zone.conf").write_text("\n".join(zone) + "\n")
    jobs = []
    for size, canon in product(BODIES, CANON):
        (directory / f"{size}-{canon}").mkdir(exist_ok=True)
        jobs += [(directory, size, canon, n) for n in range(getattr(given, size))]
    with ProcessPoolExecutor() as pool:
        sizes = list(pool.map(make, jobs, chunksize=10))
    for size, canon in product(BODIES, CANON):
        mine = [s for job, s in zip(jobs, sizes, strict=True) if job[1:3] == (size, canon)]
        if mine:
            print(f"{size}-{canon}: {len(mine)} messages, {sum(mine) // len(mine)} octets each")


if __name__ == "__main__":
    main()
