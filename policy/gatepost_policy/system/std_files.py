"""Make sure that standard input, output and error are open.

Where one of them is closed at the start, the next file that we open gets its number: then printed
text would be written into a database or a connection.
"""

import os
import sys


def ensure() -> None:
    """Open /dev/null for each of the three that is closed. Call it before anything is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # open(2) gives the lowest free number: this one, because all lower ones are in use.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w"))  # noqa: SIM115
