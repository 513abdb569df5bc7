"""Run the sessions that the README shows, and write what the commands really print.

Each ```console block is one after the other: lines that start with `$ ` are run, in an empty
state directory, on a plain terminal of 80 columns; what follows them is replaced by their output.
What an `export` line sets holds for the lines after it, as in the reader's shell.
With --check nothing is written; the exit code says whether the README tells the truth.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
COLUMNS = 80
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)


def on_terminal(command: str, environ: dict[str, str]) -> str:
    """What `command` prints on a terminal, without trailing blanks."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environ,
        cwd=ROOT,
    ):
        os.close(theirs)
        chunks = []
        try:
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        except OSError:
            pass  # Linux answers EIO once the other side is closed
        os.close(ours)
    text = b"".join(chunks).decode().replace("\r\n", "\n")
    return "\n".join(line.rstrip() for line in text.strip("\n").rstrip().splitlines())


def exported(command: str, environ: dict[str, str]) -> dict[str, str]:
    """The environment after an `export` line. Raises CalledProcessError."""
    shell = ["/bin/sh", "-euc", f"{command}\nexec env -0"]
    done = subprocess.run(shell, env=environ, cwd=ROOT, capture_output=True, check=True)
    pairs = (entry.partition("=") for entry in done.stdout.decode().split("\0") if entry)
    return {name: value for name, _, value in pairs}


def session(text: str) -> str:
    """`text` with the output of each command in it as it is today."""
    with tempfile.TemporaryDirectory(prefix="gatepost-readme-") as state:
        # milterctl is not on the PATH and no store of its own is there: the session brings both.
        environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": state,
            "TMPDIR": state,
            "TERM": "dumb",
            "NO_COLOR": "1",
            "LC_ALL": "C.UTF-8",
        }

        def played(block: re.Match[str]) -> str:
            parts = []
            for line in block.group(1).splitlines():
                if line.startswith("$ export "):
                    environ.update(exported(line[2:], environ))
                    parts.append(f"{line}\n")
                elif line.startswith("$ "):
                    parts.append(f"{line}\n{on_terminal(line[2:], environ)}\n")
            return "```console\n" + "\n".join(parts).replace("\n\n\n", "\n\n") + "```"

        return BLOCK.sub(played, text)


def main() -> int:
    """Write or check."""
    before = README.read_text()
    after = session(before)
    if before == after:
        return 0
    if "--check" in sys.argv[1:]:
        print("README.md shows something else than the commands print: run `make docs`")
        return 1
    README.write_text(after)
    print("wrote README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
