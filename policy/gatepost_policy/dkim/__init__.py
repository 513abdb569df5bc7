"""The DKIM recorder: what became of every DKIM-Signature, and of the ARC chain.

`Verifier` is one for a process; `begin` gives a `Message` that takes header fields and body
chunks as they arrive and answers with an `Outcome`. Keys come from the room `dns`.
"""

from gatepost_policy.dkim.outcome import Outcome
from gatepost_policy.dkim.reasons import Why
from gatepost_policy.dkim.verifier import Message, Verifier, preload

__all__ = ["Message", "Outcome", "Verifier", "Why", "preload"]
