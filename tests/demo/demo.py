"""Show what gatepost does, with mail of our own: `make demo`.

A submission goes through the real milter and is printed before and after; an old log and a new
message become the history of a sender. Everything happens in a temporary directory.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from gatepost_milter.mta import client
from gatepost_milter.replay.private_milter import PrivateMilter
from gatepost_policy import config

HERE = Path(__file__).parent
MILTERCTL = Path(sys.executable).with_name("milterctl")
TRAP = "forgotten@home.example"


def heading(text: str) -> None:
    print(f"\n=== {text}\n", flush=True)


def header(message: bytes) -> str:
    """The header of a message, as text."""
    return message.replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode("utf-8", "replace")


def scrub(store: str) -> None:
    """Alice hands in a message from her laptop; what a stranger will see of her."""
    with PrivateMilter(config.load(None, store=store), workers=1) as milter:
        result = client.send(
            milter.socket,
            (HERE / "submission.eml").read_bytes(),
            client="203.0.113.77",
            client_name="client-77.isp.example",
            helo="alices-laptop",
            sender="alice@home.example",
            recipients=("bob@friend.example",),
            login="alice",
            daemon_name="ORIGINATING",
            tls="TLSv1.3",
        )
    heading("Before: as it would have left without gatepost")
    print(header(result.queued))
    heading("After: as it leaves")
    print(header(result.message))


def milterctl(store: str, *arguments: str) -> None:
    """Run a command as the reader would, and show it."""
    print(f"$ milterctl {shlex.join(arguments)}", flush=True)
    subprocess.run([MILTERCTL, "--store", store, *arguments], check=True, cwd=HERE.parents[1])


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="gatepost-demo-") as directory:
        os.environ["XDG_STATE_HOME"] = directory
        os.environ.pop("GATEPOST_CONFIG", None)
        store = f"sqlite:///{directory}/gatepost.sqlite"
        heading("Privacy: a submission")
        scrub(store)
        heading("Memory: an old log, a trap, one more message, and who its sender is")
        milterctl(store, "import", "exim", "tests/demo/exim_mainlog", "--zone", "UTC")
        milterctl(store, "trap", "add", TRAP, "--note", "never given to anybody")
        milterctl(store, "replay", "--record", "tests/demo/offer.eml")
        milterctl(store, "report", "--sender", "offers.example")


if __name__ == "__main__":
    main()
