"""How long does `milterctl import` take for a million lines?

    python bench/import_logs.py [exim|postfix] [LINES]

Writes a log of invented mail (reserved names) to a temporary directory, imports it into a fresh
SQLite store, prints seconds and CPU seconds, imports it again, and removes everything.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MILTERCTL = Path(sys.executable).with_name("milterctl")


def base62(number: int, width: int) -> str:
    out = ""
    while number:
        number, digit = divmod(number, 62)
        out = DIGITS[digit] + out
    return out.rjust(width, "0")


def exim(number: int, at: datetime, domain: str, client: str) -> Iterator[str]:
    """A signed message: four lines."""
    queue_id = f"1{base62(number + 10**7, 5)}-{base62(random.randrange(62**5), 6)}-00"
    head = f"{at:%Y-%m-%d %H:%M:%S} {queue_id} "
    yield (
        f"{head}DKIM: d={domain} s=s1 c=relaxed/relaxed a=rsa-sha256 b=2048 t=1"
        " [verification succeeded]\n"
    )
    yield (
        f"{head}<= u{number % 97}@{domain} H=mx.{domain} [{client}] P=esmtps X=TLS1.3:x:256 CV=no"
        f" S={number % 10**6} id={number}@{domain}\n"
    )
    yield f"{head}=> user <user{number % 499}@home.example> R=localuser T=local_delivery\n"
    yield f"{head}Completed\n"


def postfix(number: int, at: datetime, domain: str, client: str) -> Iterator[str]:
    """A message and a refused recipient: eight lines."""
    head, queue_id = f"{at:%b %e %H:%M:%S} mx postfix/", f"{0xA0000000 + number:X}"
    peer, sender = f"mx.{domain}[{client}]", f"u{number % 97}@{domain}"
    yield f"{head}smtpd[1]: connect from {peer}\n"
    yield f"{head}smtpd[1]: {queue_id}: client={peer}\n"
    yield f"{head}cleanup[2]: {queue_id}: message-id=<{number}@{domain}>\n"
    yield (
        f"{head}qmgr[3]: {queue_id}: from=<{sender}>, size={number % 10**6}, nrcpt=1"
        " (queue active)\n"
    )
    yield (
        f"{head}smtpd[1]: NOQUEUE: reject: RCPT from {peer}: 550 5.1.1 <x@home.example>: Recipient"
        f" address rejected: User unknown; from=<{sender}> to=<x{number}@home.example> proto=ESMTP"
        " helo=<x>\n"
    )
    yield f"{head}smtpd[1]: disconnect from {peer} ehlo=1 mail=1 rcpt=1/2 data=1 commands=4/5\n"
    yield (
        f"{head}local[4]: {queue_id}: to=<user{number % 499}@home.example>, relay=local, delay=1,"
        " delays=1/0/0/0, dsn=2.0.0, status=sent (delivered to mailbox)\n"
    )
    yield f"{head}qmgr[3]: {queue_id}: removed\n"


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) > 1 else "exim"
    lines = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    make, each = (exim, 4) if kind == "exim" else (postfix, 8)
    random.seed(1)
    at = datetime(2026, 1, 1)
    with tempfile.TemporaryDirectory(prefix="gatepost-import-") as directory:
        log, config = Path(directory, "log"), Path(directory, "gatepost.toml")
        config.write_text(f'[store]\nurl = "sqlite:///{directory}/gatepost.sqlite"\n')
        with log.open("w") as file:
            for number in range(lines // each):
                at += timedelta(seconds=random.random() * 60)
                domain = f"d{int(random.paretovariate(0.7)) % 20_000}.example"
                client = f"198.18.{random.randrange(256)}.{random.randrange(256)}"
                file.writelines(make(number, at, domain, client))
        for what in ("first", "again"):
            start, before = time.monotonic(), os.times()
            command = [MILTERCTL, "--config", config, "import", kind, log, "--zone", "UTC"]
            subprocess.run(command, check=True)
            after = os.times()
            cpu = sum(after[2:4]) - sum(before[2:4])
            print(
                f"{what}: {time.monotonic() - start:.1f} s, {cpu:.1f} CPU-s, load"
                f" {os.getloadavg()[0]:.1f}"
            )


if __name__ == "__main__":
    main()
