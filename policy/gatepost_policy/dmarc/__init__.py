"""DMARC (RFC 9989): does what passed speak for the author's domain, and what if not?

`Checker` is one for a process. `begin` starts the discovery of policy and organisational domains
for one message; `finish` takes what DKIM and SPF came to and says the result.
"""

from gatepost_policy.dmarc.checker import Checker, Running
from gatepost_policy.dmarc.evaluate import Why

__all__ = ["Checker", "Running", "Why"]
