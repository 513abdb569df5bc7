"""DNS for the checks of a message: bounded, shared out, cached, recorded, replayed.

`Lookups` finds answers, `Answer` is what was said about one name and type, `Why` says why there are
no records; an `Asker` is the message that asks, and a `Share` is DNS within the limits for that
message; a `Task` runs a check that needs several answers one after the other.
"""

from gatepost_policy.dns.answer import BUSY, TIMEOUT, Answer, Why
from gatepost_policy.dns.fairness import Asker
from gatepost_policy.dns.lookups import Lookups, Pending, Share
from gatepost_policy.dns.task import Ask, Task

__all__ = [
    "BUSY", "TIMEOUT", "Answer", "Ask", "Asker", "Lookups", "Pending", "Share", "Task", "Why",
]  # fmt: skip
