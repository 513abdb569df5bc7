"""Mail that a before-queue filter refused (smtpd_proxy_filter): smtpd logs it in two lines.

`NOQUEUE: client=name[address], sasl_...`, when the client gives the first recipient, and in the
end `proxy-reject: END-OF-MESSAGE: ANSWER; from=<...> to=<...> ...`, which names no client. The
process id connects both: a process of smtpd has one session at a time.
"""

from typing import NamedTuple

from gatepost_policy.importers.postfix_line import SUBMISSION
from gatepost_policy.importers.syslog import Entry

MAX_SESSIONS = 10_000
_REFUSED = "proxy-reject: "


class ProxyRefusal(NamedTuple):
    """A refusal in the form of smtpd's other refusals. `ours`: the client had logged
    in, or came to a submission service."""

    text: str
    ours: bool


class Proxied:
    """The clients of the sessions whose mail goes through such a filter. Only in memory."""

    def __init__(self) -> None:
        self._peers: dict[tuple[str, str], tuple[str, bool]] = {}

    def began(self, entry: Entry, peer: str, *, logged_in: bool) -> None:
        """A line `NOQUEUE: client=`. `peer`: `name[address]`."""
        if len(self._peers) >= MAX_SESSIONS:
            self._peers.pop(next(iter(self._peers)))
        self._peers[entry.host, entry.pid] = peer, logged_in

    def refusal(self, entry: Entry) -> ProxyRefusal | None:
        """What this line refused; None where it is another line.

        None also where the client is not known, because its line is not in the log: then it is not
        known whether it was one of our users either.
        """
        if not entry.text.startswith(_REFUSED) or "/smtpd" not in entry.program:
            return None
        known = self._peers.get((entry.host, entry.pid))
        if known is None:
            return None
        stage, _, rest = entry.text[len(_REFUSED) :].partition(": ")
        ours = known[1] or not SUBMISSION.isdisjoint(entry.program.split("/"))
        return ProxyRefusal(f"reject: {stage} from {known[0]}: {rest}", ours)
