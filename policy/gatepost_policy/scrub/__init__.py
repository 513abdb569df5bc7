"""What is removed from a submitted message, and what a saved one still reveals. Pure."""

from gatepost_policy.scrub.client_words import ClientWords
from gatepost_policy.scrub.own_received import TOKEN_FIELD, Field, Hop, Plan, verified
from gatepost_policy.scrub.scrubber import RESULTS, Scrubber

__all__ = ["ClientWords", "Field", "Hop", "Plan", "RESULTS", "Scrubber", "TOKEN_FIELD", "verified"]
