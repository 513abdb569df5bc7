"""Somebody else's milter in the chain: does the same few edits to every message.

    python other_milter.py SOCKET OPS      OPS: JSON, e.g. [["ins", "Received", 0, " from x"]]

Further operations: ["sleep", SECONDS] hangs at end of message, ["hang", SECONDS] at connect.
"""

import json
import sys
import time
from typing import Any

import Milter

OPS: list[Any] = json.loads(sys.argv[2])


class Other(Milter.Base):  # type: ignore[misc]
    """Pass everything, edit at the end."""

    def connect(self, *_: Any) -> Any:
        for op, *args in OPS:
            if op == "hang":
                time.sleep(args[0])
        return Milter.CONTINUE

    def eom(self) -> Any:
        for op, *args in OPS:
            if op == "ins":
                self.addheader(args[0], args[2], args[1])
            elif op == "sleep":
                time.sleep(args[0])
        return Milter.CONTINUE


if __name__ == "__main__":
    Milter.factory = Milter.header_leading_space(Other)
    Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS)
    print("ready", flush=True)
    Milter.runmilter("other", sys.argv[1], 60)
