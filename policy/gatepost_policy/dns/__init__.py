"""DNS as the checks of a message ask it: bounded, cached, recorded, played back.

`Lookups` finds answers, `Answer` is what was said about one name and type, `Why` says why there
are no records.
"""

from gatepost_policy.dns.answer import BUSY, TIMEOUT, Answer, Why
from gatepost_policy.dns.lookups import Lookups, Pending

__all__ = ["BUSY", "TIMEOUT", "Answer", "Lookups", "Pending", "Why"]
