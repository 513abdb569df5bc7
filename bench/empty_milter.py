"""A milter on pymilter that does nothing: the floor under every milter written in Python.

    python bench/empty_milter.py unix:/PATH

It promises no answer to every step but the end of the message, as gatepost does.
"""

import sys
from typing import Any

import Milter


class Empty(Milter.Base):  # type: ignore[misc]
    """Accepts everything."""

    @Milter.noreply
    def connect(self, *args: Any) -> int:
        return int(Milter.CONTINUE)

    @Milter.noreply
    def hello(self, *args: Any) -> int:
        return int(Milter.CONTINUE)

    @Milter.noreply
    def envfrom(self, *args: Any) -> int:
        return int(Milter.CONTINUE)

    @Milter.noreply
    def envrcpt(self, *args: Any) -> int:
        return int(Milter.CONTINUE)

    @Milter.noreply
    def data(self) -> int:
        return int(Milter.CONTINUE)

    @Milter.noreply
    def header(self, *args: Any) -> int:
        return int(Milter.CONTINUE)

    @Milter.noreply
    def eoh(self) -> int:
        return int(Milter.CONTINUE)

    @Milter.noreply
    def body(self, *args: Any) -> int:
        return int(Milter.CONTINUE)

    def eom(self) -> int:
        return int(Milter.ACCEPT)


if __name__ == "__main__":
    Milter.factory = Empty
    Milter.set_flags(Milter.ADDHDRS)
    Milter.runmilter("empty", sys.argv[1], 60)
