"""Does every message of an Exim reach the statements that ask gatepost, and those that scrub?

An ACL ends at the first `accept` whose conditions hold, so an `accept` above ours can keep mail
from it.
"""

import re
from collections.abc import Callable, Iterator

from gatepost_milter.doctor.exim_config import EximConfig, Statement
from gatepost_milter.doctor.finding import Finding

ENDS = ("deny", "drop", "defer")
# Conditions of an accept that are true for all mail to mailboxes here.
_OF_THE_RECIPIENT = frozenset(("domains", "verify", "!verify"))
ACLS_WITH_CONTROLS = ("acl_smtp_connect", "acl_smtp_helo", "acl_smtp_mail", "acl_smtp_rcpt",
                      "acl_smtp_predata", "acl_smtp_data")  # fmt: skip


def asks(statements: tuple[Statement, ...], stage: str) -> bool:
    """True where one of these asks gatepost-policyd at this stage: rcpt, dkim or data."""
    # Any value may be sent in base64 (docs/policy-protocol.md).
    wanted = re.compile(rf"\{{exim [^\n]*?\b(?:stage={stage}\b|b64\.stage=\$\{{base64:{stage}\}})")
    return any(wanted.search(value) for s in statements for _, value in s.parts)


def check(config: EximConfig) -> Iterator[Finding]:
    """Every finding about what comes before gatepost."""
    yield from _recipients(config)
    yield from _signatures(config)
    for root in dict.fromkeys(config.roots("acl_smtp_data")):
        above = _accepts_above(config, root, scrubs)
        if above is not None:
            yield Finding(
                "scrub-order", f"ACL {root}",
                f"{written(above)} ends the ACL for submitted mail too: it leaves unscrubbed",
                f"require acl = gatepost_data, above: {written(above)}",
            )  # fmt: skip
    for option in ACLS_WITH_CONTROLS:
        for statement in config.reached(option):
            if "dkim_disable_verify" in statement.values("control") and not statement.conditions:
                yield Finding(
                    "dkim-off", f"{option} = {config.options[option]}",
                    "control = dkim_disable_verify without a condition: no signature is verified",
                    "authenticated = *, above: control = dkim_disable_verify",
                )  # fmt: skip


def written(statement: Statement) -> str:
    """A statement in one line, as the administrator can search for it (120 characters at most)."""
    parts = (f"{key} = {value}" if value else key for key, value in statement.parts)
    return f"{statement.verb} {' '.join(parts)}".strip()[:120]


def scrubs(statements: tuple[Statement, ...]) -> bool:
    """True where one of these removes header fields."""
    return any(s.values("remove_header") for s in statements)


def _accepts_above(
    config: EximConfig, root: str, ours: Callable[[tuple[Statement, ...]], bool]
) -> Statement | None:
    """The first `accept` of an ACL for our own users' mail that stands above what is `ours`; None
    where there is none, and where `ours` is not there at all or is the ACL itself."""
    statements = config.acls.get(root, ())
    if ours(statements):
        return None
    for number, statement in enumerate(statements):
        if ours((statement, *config.within(*config.calls(statement)))):
            return None
        if statement.verb == "accept" and not statement.strangers_only:
            rest = statements[number + 1 :]
            later = any(ours(config.within(*config.calls(s))) for s in rest)
            return statement if later else None
    return None


def unscrubbed_local(config: EximConfig) -> Statement | None:
    """The `accept` of acl_not_smtp that lets local mail go before the scrub, else None."""
    above = (_accepts_above(config, root, scrubs) for root in config.roots("acl_not_smtp"))
    return next((s for s in above if s is not None), None)


def _recipients(config: EximConfig) -> Iterator[Finding]:
    """gatepost-policyd must be asked before unknown users are refused or recipients accepted."""
    for root in dict.fromkeys(config.roots("acl_smtp_rcpt")):
        if not asks(config.within(root), "rcpt"):
            continue
        for statement in config.acls.get(root, ()):
            if asks((statement, *config.within(*config.calls(statement))), "rcpt"):
                break
            if (problem := _decides(statement)) is not None:
                yield Finding(
                    "policy-order", f"ACL {root}", f"{problem} before gatepost-policyd is asked",
                    f"require acl = gatepost_rcpt, above: {written(statement)}",
                )  # fmt: skip
                break


def _decides(statement: Statement) -> str | None:
    """What a statement does to recipients of inbound mail; None where it decides few of them."""
    verify = [v for k, v in statement.parts if k.lstrip("!") == "verify"]
    if statement.verb in (*ENDS, "require") and any(v.startswith("recipient") for v in verify):
        return "unknown users are refused"
    if statement.verb != "accept" or set(statement.conditions) - _OF_THE_RECIPIENT:
        return None
    return "unknown users are refused" if verify else "strangers' recipients are accepted"


def _signatures(config: EximConfig) -> Iterator[Finding]:
    for root in dict.fromkeys(config.roots("acl_smtp_dkim")):
        above = _accepts_above(config, root, lambda found: asks(found, "dkim"))
        if above is not None:
            yield Finding(
                "stage-dkim", f"ACL {root}",
                f"{written(above)} ends the ACL: of these signatures gatepost-policyd never hears",
                f"warn acl = gatepost_dkim, above: {written(above)}",
            )  # fmt: skip
