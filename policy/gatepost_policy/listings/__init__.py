"""Who is listed for a trap hit, until when, and on what evidence."""

from gatepost_policy.listings.automatic import apply, holding, take_back
from gatepost_policy.listings.by_hand import forgive, identify, punish, restore, unpunish
from gatepost_policy.listings.guard import covering, refusal, would_have_hit
from gatepost_policy.listings.past import gather
from gatepost_policy.listings.repeats import flag_repeat, repeating
from gatepost_policy.listings.table import Fresh, without_effect

__all__ = [
    "Fresh",
    "apply",
    "covering",
    "flag_repeat",
    "forgive",
    "gather",
    "holding",
    "identify",
    "punish",
    "refusal",
    "repeating",
    "restore",
    "unpunish",
    "take_back",
    "without_effect",
    "would_have_hit",
]
