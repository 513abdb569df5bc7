"""DMARC (RFC 9989): did SPF or DKIM pass for the author's domain, and what is its policy if not?

A process has one `Checker`. `begin` starts the discovery of policy and organisational domains for
one message; `finish` takes the results of DKIM and SPF and returns that of DMARC.
"""

from gatepost_policy.dmarc.checker import Checker, Running
from gatepost_policy.dmarc.evaluate import Why

__all__ = ["Checker", "Running", "Why"]
