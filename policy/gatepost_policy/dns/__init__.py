"""DNS as the checks of a message ask it: bounded, cached, recorded, played back.

`Lookups` finds answers, `Answer` is what was said about one name and type, `Why` says why there
are no records; a `Task` is what needs several answers one after the other.
"""

from gatepost_policy.dns.answer import BUSY, TIMEOUT, Answer, Why
from gatepost_policy.dns.lookups import Lookups, Pending
from gatepost_policy.dns.task import Ask, Task

__all__ = ["BUSY", "TIMEOUT", "Answer", "Ask", "Lookups", "Pending", "Task", "Why"]
