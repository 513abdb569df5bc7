"""Tracing: a token in each submission names its account, readable only with a private key."""

from gatepost_policy.tracing.keys import Bundle, Keyring, TraceKeyError, make_keys
from gatepost_policy.tracing.resolve import Answer, Outcome, resolve, resolve_each
from gatepost_policy.tracing.token import FIELD, Content, body_hash, header_hash, new_body, seal

__all__ = [
    "FIELD", "Answer", "Bundle", "Content", "TraceKeyError", "Keyring", "Outcome", "body_hash",
    "header_hash", "make_keys", "new_body", "resolve", "resolve_each", "seal",
]  # fmt: skip
