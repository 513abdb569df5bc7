"""The shipped recipes of conf/postfix, made to run in a throw-away instance.

The text is used as it is shipped; only what a test cannot share with a real server is put in
its place: the port, the chroot, the milter's socket, /etc/postfix and the token.
"""

import re
from pathlib import Path

CONF = Path(__file__).parents[1] / "conf/postfix"
TOKEN = "t0k3nf0rtests"
SHIPPED_MILTER = "inet:127.0.0.1:8894"
SHIPPED_POLICY = "inet:127.0.0.1:10040"


def shipped(name: str) -> str:
    """One file of conf/postfix."""
    return (CONF / name).read_text()


def adapted(text: str, etc: Path | str, milter: str, policy: str = SHIPPED_POLICY) -> str:
    """`text` with this instance's sockets, paths and token."""
    text = text.replace(SHIPPED_MILTER, milter).replace(SHIPPED_POLICY, policy)
    return text.replace("/etc/postfix/", f"{etc}/").replace("@TOKEN@", TOKEN)


def entries(text: str) -> dict[str, str]:
    """master.cf text as service name -> entry, comments gone, not chrooted."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if not line[0].isspace():
            name = line.split()[0]
            line = re.sub(r"^(\S+\s+\S+\s+\S+\s+\S+\s+)y(\s)", r"\1n\2", line)
            found[name] = ""
        found[name] += line + "\n"
    return found


def main_cf(text: str) -> dict[str, str]:
    """main.cf text as name -> value, continuation lines joined."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0].isspace():
            found[name] += " " + line.strip()
        else:
            name, _, value = (part.strip() for part in line.partition("="))
            found[name] = value
    return found
