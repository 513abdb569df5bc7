"""Add to our own users' mail the sealed trace: who submitted it (`submission.trace_keys`).

Where there is no key for the week, the message leaves without a trace: that it can be delivered
matters more than that it can be traced. This is logged once, and counted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gatepost_milter.filter.transcript import Message
from gatepost_policy.config.settings import Settings
from gatepost_policy.dkim.body import Body
from gatepost_policy.mail.decision import Edit
from gatepost_policy.mail.facts import Direction
from gatepost_policy.scrub import Field
from gatepost_policy.tracing import FIELD, Bundle, Content, TraceKeyError, header_hash, new_body
from gatepost_policy.tracing import token as tokens


class Teller(Protocol):
    """What can log an event once."""

    def tell_once(self, level: str, event: str, **fields: Any) -> None:
        """Log `event` the first time it comes with these fields."""
        ...


class Tracer:
    """The key bundle of one worker; does nothing where `submission.trace_keys` is not set."""

    def __init__(self, settings: Settings, teller: Teller) -> None:
        self._teller = teller
        self._bundle: Bundle | None = None
        self._on = bool(settings.submission.trace_keys)
        self._relays = bool(settings.submission.trusted_relays)
        if self._on:
            try:
                self._bundle = Bundle.read(Path(settings.submission.trace_keys))
            except TraceKeyError as error:
                self._lost(str(error))

    def _lost(self, why: str) -> None:
        self._teller.tell_once(
            "error", "no-trace-key", why=why,
            hint="submissions leave without X-Gatepost-Trace until there is a key for this week",
        )  # fmt: skip

    def body(self, message: Message) -> Body | None:
        """What hashes the body of `message` as it arrives; None where nobody asks for its hash: it
        gets no trace, and does not come a second time through a relay."""
        if message.whose.second_pass and self._relays:
            return new_body(relaxed=False)
        if not self._on or message.direction is not Direction.SUBMISSION:
            return None
        return new_body() if message.over_limit is None else None

    def seal(
        self, message: Message, edits: Sequence[Edit], login: str | None, queue_id: str | None
    ) -> tuple[Edit, ...]:
        """The edit that puts the trace in, after `edits`; none where there is no key, or nobody has
        logged in."""
        if login is None or message.hashed is None:
            return ()
        found = None if self._bundle is None else self._bundle.at(message.at)
        if found is None or self._bundle is None:
            self._lost("no key for this week")
            return ()
        name, public = found
        content = Content(
            account=login,
            at=int(message.at),
            queue_id=queue_id or "",
            header=header_hash(leaving(message.fields, edits)),
            body=tokens.body_hash(message.hashed),
        )
        try:
            token = tokens.seal(content, name, public, self._bundle.mac_key)
        except ValueError as error:
            self._lost(str(error))
            return ()
        # Index 1, below our own Received: Postfix hides the first field from later milters.
        return (Edit("insert", FIELD, 1, tokens.folded(token)),)


def leaving(fields: Sequence[Field], edits: Sequence[Edit]) -> list[Field]:
    """Those fields that the token covers (`tokens.HASHED`), as they will be after `edits`."""
    changes = {(e.name.lower(), e.index): e for e in edits if e.op != "insert"}
    out: list[Field] = []
    count: dict[str, int] = {}
    for name, value in fields:
        key = name.lower()
        if key not in tokens.HASHED:
            continue
        count[key] = index = count.get(key, 0) + 1
        edit = changes.get((key, index))
        if edit is None:
            out.append((name, value))
        elif edit.op == "change":
            out.append((name, (edit.value or "").encode()))
    return out
