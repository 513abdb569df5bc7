"""The log: one line a message, the same keys in the same order, on stderr.

A line is logfmt or a JSON object, in ASCII. Other characters, which a sender may put into an
address, are escaped, so that no value can end a line, begin a field or move a terminal's cursor.

Privacy: a line about a submission or local mail has the time, queue id, direction, family,
action and reason, and no other key. Events (`event=...`) carry what the caller gives them; no
caller gives client data.
"""

import json
import os
import re
import time
from collections.abc import Mapping
from functools import lru_cache

from gatepost_policy.config.settings import Log
from gatepost_policy.mail.decision import Decision, Reason
from gatepost_policy.mail.facts import Direction, Facts, Stage

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+<>,\[\]*-]+\Z").match
LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
MAX_VALUE = 512  # characters; a longer value is cut and marked
MAX_RECIPIENTS = 10
# Looking a member up in its class costs as much as writing a field of the line.
_INBOUND, _END, _BROKEN = Direction.INBOUND, Stage.END, Reason.INTERNAL_ERROR

Value = str | int | float | bool | None


def quoted(value: Value) -> str:
    """`value` as logfmt: bare where it is plain, else a JSON string in ASCII."""
    if isinstance(value, str):
        if len(value) > MAX_VALUE:
            value = value[:MAX_VALUE] + "..."
        return value if _PLAIN(value) and value != "-" else json.dumps(value)
    if value is None:
        return "-"
    return str(value).lower()  # True and False as JSON has them


def stamp(at: float) -> str:
    """`at` (Unix seconds) as ISO 8601 in UTC, to the second."""
    return _second(int(at))


# Most messages share their second with others. An lru_cache, not two global variables, because
# several threads write lines.
@lru_cache(maxsize=16)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(whole))


def message_fields(facts: Facts, decision: Decision, traps: int = 0) -> dict[str, Value]:
    """The keys of one finished message, in their order."""
    out: dict[str, Value] = {
        "id": facts.queue_id,
        "direction": facts.direction,
        "family": facts.client.family,
    }
    if facts.direction is not _INBOUND:
        out["action"] = decision.action
        out["reason"] = decision.reason
        return out
    client = facts.client
    to = [r.address.raw for r in facts.recipients[:MAX_RECIPIENTS]]
    if len(facts.recipients) > MAX_RECIPIENTS:
        to.append(f"+{len(facts.recipients) - MAX_RECIPIENTS}")
    out["client"] = None if client.address is None else str(client.address)
    out["from"] = f"<{facts.sender.raw}>"
    out["to"] = ",".join(to)
    out["size"] = facts.size
    out["dkim"] = ",".join(f"{s.result}:{s.domain or '?'}" for s in facts.signatures) or (
        # "none" only where the signatures were looked for.
        "none"
        if facts.stage is _END and facts.over_limit is None and decision.reason is not _BROKEN
        else None
    )
    out["arc"] = None if facts.arc is None else facts.arc.cv
    spf, dmarc = facts.spf, facts.dmarc
    out["spf"] = None if spf is None else f"{spf.mail_from.result}:{spf.mail_from.domain or '?'}"
    out["dmarc"] = None if dmarc is None else f"{dmarc.result}:{dmarc.domain or '?'}"
    out["traps"] = traps
    out["action"] = decision.action
    out["reason"] = decision.reason
    out["shadow"] = ",".join(decision.shadow) or None
    return out


def plain_line(facts: Facts, decision: Decision, traps: int) -> str | None:
    """The same line as by `message_fields` and `quoted`, for an inbound message with one recipient
    and one signature, where no value needs quotes; else None.

    Every message gets a line, and this is much faster: one expression instead of sixteen calls.
    """
    signatures, recipients, queue_id = facts.signatures, facts.recipients, facts.queue_id
    if decision.shadow or len(signatures) != 1 or len(recipients) != 1 or not queue_id:
        return None
    to, dkim, arc, spf, dmarc = recipients[0].address.raw, signatures[0], "-", "-", "-"
    if not to or not dkim.domain or queue_id == "-" or to == "-":
        return None
    if facts.arc is not None:
        arc = facts.arc.cv
    if facts.spf is not None:
        of_sender = facts.spf.mail_from
        spf = f"{of_sender.result}:{of_sender.domain or '?'}"
    if facts.dmarc is not None:
        dmarc = f"{facts.dmarc.result}:{facts.dmarc.domain or '?'}"
    client = "-" if facts.client.address is None else str(facts.client.address)
    sender = facts.sender.raw
    # If all together are plain and short enough, each of them is. ("?" is not plain.)
    every = f"{queue_id}{client}{sender}{to}{dkim.domain}{arc}{spf}{dmarc}"
    if len(every) > MAX_VALUE - 32 or not _PLAIN(every):
        return None
    return (
        f"at={stamp(facts.at)} id={queue_id} direction=inbound family={facts.client.family}"
        f" client={client} from=<{sender}> to={to} size={'-' if facts.size is None else facts.size}"
        f" dkim={dkim.result}:{dkim.domain} arc={arc} spf={spf} dmarc={dmarc} traps={traps}"
        f" action={decision.action} reason={decision.reason} shadow=-"
    )


class MailLog:
    """Writes each line to a descriptor with one write(2), so that processes do not mix theirs.
    Errors are ignored."""

    def __init__(self, settings: Log, descriptor: int = 2) -> None:
        self.json = settings.format == "json"
        self.level = LEVELS[settings.level]
        self.descriptor = descriptor

    def message(self, facts: Facts, decision: Decision, traps: int = 0) -> None:
        """One line about one finished message."""
        if self.level > LEVELS["info"]:
            return
        if not self.json and facts.direction is _INBOUND:
            line = plain_line(facts, decision, traps)
            if line is not None:
                self._put(line)
                return
        self._write(facts.at, message_fields(facts, decision, traps))

    def event(self, level: str, event: str, **fields: Value) -> None:
        """One line about the service itself. `level` is debug, info, warning or error."""
        if self.level <= LEVELS[level]:
            self._write(time.time(), {"level": level, "event": event, **fields})

    def _write(self, at: float, fields: Mapping[str, Value]) -> None:
        if self.json:
            line = json.dumps({"at": stamp(at), **fields})
        else:
            pairs = [f"{key}={quoted(value)}" for key, value in fields.items()]
            line = f"at={stamp(at)} {' '.join(pairs)}"
        self._put(line)

    def _put(self, line: str) -> None:
        try:
            os.write(self.descriptor, line.encode("ascii") + b"\n")
        except OSError:
            pass  # nobody reads the log: mail is more important
