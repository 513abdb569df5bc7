"""SPF (RFC 7208): may this client send for the MAIL FROM's and the HELO's domain?

A process has one `Checker`; `begin` starts the checks of one message, `finish` returns their
outcome.
"""

from gatepost_policy.spf.checker import Checker, Outcome, Running
from gatepost_policy.spf.evaluate import Why

__all__ = ["Checker", "Outcome", "Running", "Why"]
