"""DNS as the checks of a message ask it: bounded, shared out, cached, recorded, played back.

`Lookups` finds answers, `Answer` is what was said about one name and type, `Why` says why there
are no records; an `Asker` is on whose behalf, and `Share` what that one may ask; a `Task` is what
needs several answers one after the other.
"""

from gatepost_policy.dns.answer import BUSY, TIMEOUT, Answer, Why
from gatepost_policy.dns.fairness import Asker
from gatepost_policy.dns.lookups import Lookups, Pending, Share
from gatepost_policy.dns.task import Ask, Task

__all__ = [
    "BUSY", "TIMEOUT", "Answer", "Ask", "Asker", "Lookups", "Pending", "Share", "Task", "Why",
]  # fmt: skip
