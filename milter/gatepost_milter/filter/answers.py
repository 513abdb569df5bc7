"""What a session answers to an event, as values; the engine sends them to the MTA."""

from gatepost_policy.mail.decision import Action, Decision, Edit, Reply
from gatepost_policy.mail.message_dataclass import dataclass

# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_TEMPFAIL = Action.TEMPFAIL
_REJECT = Action.REJECT
_DISCARD = Action.DISCARD


@dataclass(frozen=True, slots=True)
class Go:
    """Nothing to say: the MTA goes on."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The MTA may keep the rest of the body to itself."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """This recipient or message is not taken. Without `reply` the MTA uses its own text."""

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
# Made once, because most events get one of these.
GO, SKIP, DELIVER = Go(), Skip(), Deliver()


def answer_of(decision: Decision, edits: tuple[Edit, ...], can_drop: bool) -> Answer:
    """What carries `decision` and `edits` out at the end of a message.

    `can_drop`: the MTA lets recipients be taken away. Raises ValueError where that is asked of
    one that does not.
    """
    if decision.action in (_REJECT, _TEMPFAIL):
        return Refuse(decision.reply, decision.action is _TEMPFAIL)
    if decision.action is _DISCARD:
        return Deliver(discard=True)
    drop = decision.drop_recipients
    if drop and not can_drop:
        raise ValueError("the MTA does not let recipients be taken away")
    return Deliver(edits, drop)
