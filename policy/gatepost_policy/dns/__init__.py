"""DNS for the checks of a message: limited, shared fairly, cached, recorded and replayed.

`Lookups` finds answers, an `Answer` is the result for one name and type, `Why` says why there are
no records; an `Asker` is the message that asks, and a `Share` gives it DNS within the limits for a
message; a `Task` runs a check that needs several answers one after the other.
"""

from gatepost_policy.dns.answer import BUSY, TIMEOUT, Answer, Why
from gatepost_policy.dns.fairness import Asker
from gatepost_policy.dns.lookups import Lookups, Pending, Share
from gatepost_policy.dns.task import Ask, Task

__all__ = [
    "BUSY", "TIMEOUT", "Answer", "Ask", "Asker", "Lookups", "Pending", "Share", "Task", "Why",
]  # fmt: skip
