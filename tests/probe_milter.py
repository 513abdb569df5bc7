"""A milter on pymilter that does what a message's `X-Probe` field says, and logs what it saw.

    python probe_milter.py SOCKET LOGFILE [leadspc] [skip] [noreply] [rejected]

`X-Probe: [["chg", "Received", 1, ""], ["ins", "X-A", 0, " b"], ["add", "X-C", " d"],
["delrcpt", "<a@b>"], ["reply", "550", "5.7.1", "no"], ["discard"], ["accept"]]`.
"""

import json
import os
import sys
import threading
import time
from typing import Any

import Milter

FLAGS = set(sys.argv[3:])
LOG = open(sys.argv[2], "a", buffering=1)  # noqa: SIM115 (lives as long as the process)


def log(**event: Any) -> None:
    print(json.dumps(event, default=repr), file=LOG, flush=True)


class Probe(Milter.Base):  # type: ignore[misc]
    def macros(self, *names: str) -> dict[str, str]:
        return {n: v for n in names if (v := self.getsymval(n)) is not None}

    def connect(self, host: str, family: int, address: Any) -> Any:
        seen = self.macros("j", "v", "_", "{daemon_name}", "{client_addr}", "i")
        log(event="connect", host=host, family=family, address=address, macros=seen)
        return Milter.CONTINUE

    def hello(self, name: str) -> Any:
        log(event="helo", name=name)
        return Milter.CONTINUE

    def envfrom(self, *args: str) -> Any:
        self.todo: list[Any] = []
        self.size = 0
        self.chunks: list[int] = []
        names = ("i", "{auth_authen}", "{mail_addr}", "{x}")
        log(event="mail", args=args, macros=self.macros(*names))
        return Milter.TEMPFAIL if "tempfail" in args[0] else Milter.CONTINUE

    def envrcpt(self, *args: str) -> Any:
        seen = self.macros("i", "{rcpt_addr}", "{rcpt_mailer}")
        log(event="rcpt", args=args, macros=seen)
        if "discard" in args[0]:
            return Milter.DISCARD
        return Milter.REJECT if "refuse" in args[0] else Milter.CONTINUE

    def data(self) -> Any:
        log(event="data", macros=self.macros("i"))
        return Milter.CONTINUE

    def header(self, name: str, value: str) -> Any:
        log(event="header", name=name, value=value)
        if name == "X-Probe":
            self.todo = json.loads(value)
        return Milter.CONTINUE

    def eoh(self) -> Any:
        log(event="eoh", macros=self.macros("i"))
        return Milter.CONTINUE

    def body(self, chunk: bytes) -> Any:
        self.size += len(chunk)
        self.chunks.append(len(chunk))
        return Milter.SKIP if "skip" in FLAGS else Milter.CONTINUE

    def eom(self) -> Any:
        log(event="eom", size=self.size, chunks=self.chunks[:3], macros=self.macros("i"))
        for op, *args in self.todo:
            if op == "chg":
                self.chgheader(*args)
            elif op == "ins":
                self.addheader(args[0], args[2], args[1])
            elif op == "add":
                self.addheader(*args)
            elif op == "delrcpt":
                self.delrcpt(*args)
            elif op == "reply":
                self.setreply(*args)
                return Milter.REJECT if args[0].startswith("5") else Milter.TEMPFAIL
            elif op == "discard":
                return Milter.DISCARD
            elif op == "accept":
                return Milter.ACCEPT
        return Milter.CONTINUE

    def abort(self) -> Any:
        log(event="abort")
        return Milter.CONTINUE


def negotiate(context: Any, opts: list[int]) -> Any:
    log(event="negotiate", actions=opts[0], steps=opts[1])
    wanted = 0
    for flag, bit in (
        ("leadspc", Milter.P_HDR_LEADSPC),
        ("skip", Milter.P_SKIP),
        ("rejected", Milter.P_RCPT_REJ),
        ("noreply", Milter.P_NR_HDR | Milter.P_NR_CONN | Milter.P_NR_HELO | Milter.P_NR_BODY),
    ):
        if flag in FLAGS:
            wanted |= bit
    opts[1] = wanted
    opts[2] = opts[3] = 0
    return Milter.CONTINUE


def announce() -> None:
    """Say so once the socket is there: libmilter opens it without telling."""
    while not os.path.exists(sys.argv[1].partition(":")[2]):
        time.sleep(0.01)
    print("listening", flush=True)


if __name__ == "__main__":
    Milter.factory = Probe
    Milter.set_flags(Milter.CHGHDRS | Milter.ADDHDRS | Milter.DELRCPT | Milter.ADDRCPT)
    # Milter.Base.negotiate would overwrite the flags with what its decorators say.
    Probe.negotiate = lambda self, opts: negotiate(self, opts)
    threading.Thread(target=announce, daemon=True).start()
    Milter.runmilter("probe", sys.argv[1], 60)
