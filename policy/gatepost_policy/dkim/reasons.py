"""Reasons of signatures (defined in `mail.dkim_reason`, because facts use them) and of ARC
chains.
"""

from enum import StrEnum

from gatepost_policy.mail.dkim_reason import FAIL, RESULT, TEMPERROR, Why

__all__ = ["FAIL", "RESULT", "TEMPERROR", "ArcWhy", "Why"]


class ArcWhy(StrEnum):
    """Why an ARC chain is `fail`, beside the reasons of its signatures (`Why`)."""

    MALFORMED = "malformed"  # a set is incomplete, doubled or cannot be read
    TOO_MANY_SETS = "too-many-sets"  # over 50 (RFC 8617 4.2.1)
    TOO_LONG = "arc-too-long"  # over dkim.arc_max_bytes, or one over dkim.max_signature_bytes
    CHAIN_FAILED = "chain-failed-before"  # the newest seal says that the chain had failed
    STATUS = "bad-chain-status"  # a seal's cv= does not fit its place in the chain
