"""One Exim outcome, told by an ACL or by the log, is one result with one reason."""

import pytest

from gatepost_policy.config.settings import Settings
from gatepost_policy.dkim.reasons import RESULT, Why
from gatepost_policy.importers.exim_dkim import read_dkim
from gatepost_policy.policyd.attributes import signature
from gatepost_policy.policyd.protocol import Form, Request

# $dkim_verify_status, $dkim_verify_reason and the log's words for the same state (exim: src/dkim.c)
OUTCOMES = [
    ("pass", "", "verification succeeded", None),
    ("fail", "bodyhash_mismatch",
     "verification failed - body hash mismatch (body probably modified in transit)", Why.BODY_HASH),
    ("fail", "signature_incorrect",
     "verification failed - signature did not verify (headers probably modified in transit)",
     Why.BAD_SIGNATURE),
    ("fail", "", "verification failed - unspecified reason", Why.BAD_SIGNATURE),
    ("invalid", "pubkey_unavailable", "invalid - public key record (currently?) unavailable",
     Why.KEY_UNAVAILABLE),
    ("invalid", "pubkey_dns_syntax", "invalid - syntax error in public key record", Why.KEY_SYNTAX),
    ("invalid", "pubkey_der_syntax", "invalid - syntax error in public key record", Why.KEY_SYNTAX),
    ("invalid", "pubkey_too_short", "invalid - signature invalid (key too short)", Why.WEAK_KEY),
    ("invalid", "", "invalid - unspecified problem", Why.UNSPECIFIED),
    # Set by an ACL: the log has status and reason as they were set.
    ("fail", "hash too weak", "fail - hash too weak", Why.WEAK_HASH),
    ("fail", "hash too weak or key too short", "fail - hash too weak or key too short",
     Why.WEAK_KEY),
    ("fail", "our own", "fail - our own", Why.BAD_SIGNATURE),
    ("invalid", "our own", "invalid - our own", Why.UNSPECIFIED),
]  # fmt: skip


@pytest.mark.parametrize(("status", "reason", "words", "want"), OUTCOMES)
def test_acl_and_log_agree(status: str, reason: str, words: str, want: Why | None) -> None:
    tags = {"domain": "example.org", "selector": "s", "algorithm": "rsa-sha256"}
    told = {"status": status, "reason": reason, **tags}
    live = signature(Request(Form.EXIM, told), Settings())
    logged = read_dkim(f"DKIM: d=example.org s=s c=relaxed/relaxed a=rsa-sha256 b=2048 [{words}]")
    assert live is not None and logged is not None
    assert live.reason is logged.reason is want
    assert (live.crypto, live.result) == (logged.crypto, logged.result)
    assert live.result == ("pass" if want is None else RESULT[want])
