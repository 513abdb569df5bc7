"""The DKIM recorder: the result of every DKIM-Signature, and of the ARC chain.

A process has one `Verifier`; `begin` gives a `Message` that takes header fields and body chunks as
they arrive and returns an `Outcome` at the end. Keys come from the room `dns`.
"""

from gatepost_policy.dkim.outcome import Outcome
from gatepost_policy.dkim.reasons import Why
from gatepost_policy.dkim.verifier import Message, Verifier, preload

__all__ = ["Message", "Outcome", "Verifier", "Why", "preload"]
