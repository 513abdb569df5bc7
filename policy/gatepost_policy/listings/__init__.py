"""Who is punished for a trap hit, until when, and on what evidence."""

from gatepost_policy.listings.automatic import apply, holding
from gatepost_policy.listings.by_hand import forgive, identify, punish
from gatepost_policy.listings.repeats import flag_repeat, good_messages, repeating
from gatepost_policy.listings.table import Fresh

__all__ = [
    "Fresh",
    "apply",
    "flag_repeat",
    "forgive",
    "good_messages",
    "holding",
    "identify",
    "punish",
    "repeating",
]
