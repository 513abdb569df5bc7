"""Standard input, output and error that are there, whoever started us.

A program that begins with one of them closed gives its number to the next file it opens: what is
printed then ends up in a database or in another program's connection.
"""

import os
import sys


def ensure() -> None:
    """Open /dev/null for each of the three that is closed. Call it before anything is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is what open gives: this one, as those below are there.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w"))  # noqa: SIM115
