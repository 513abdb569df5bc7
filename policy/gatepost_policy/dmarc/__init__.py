"""DMARC (RFC 9989): whether SPF or DKIM passed for the author's domain, and the policy if neither
did.

`Checker` is one for a process. `begin` starts the discovery of policy and organisational domains
for one message; `finish` takes the results of DKIM and SPF and returns that of DMARC.
"""

from gatepost_policy.dmarc.checker import Checker, Running
from gatepost_policy.dmarc.evaluate import Why

__all__ = ["Checker", "Running", "Why"]
