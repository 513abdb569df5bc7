"""What a session answers to an event. Values: the engine puts them on the wire."""

from dataclasses import dataclass

from gatepost_policy.mail.decision import Edit, Reply


@dataclass(frozen=True, slots=True)
class Go:
    """Nothing to say: the MTA goes on."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The MTA may keep the rest of the body to itself."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """This recipient or message is not taken. Without `reply` the MTA finds its own words."""

    reply: Reply | None
    temporary: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """The message is taken, once `edits` and `drop_recipients` (addresses without brackets) were
    carried out. `discard`: it is taken and goes nowhere."""

    edits: tuple[Edit, ...] = ()
    drop_recipients: tuple[str, ...] = ()
    discard: bool = False


Answer = Go | Skip | Refuse | Deliver
# One of each: most events are answered so.
GO, SKIP, DELIVER = Go(), Skip(), Deliver()
