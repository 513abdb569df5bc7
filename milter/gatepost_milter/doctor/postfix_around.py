"""What stands around gatepost in Postfix and can undo or blind it: tables, rewriting, order."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from gatepost_milter.doctor.finding import Finding, Live, place
from gatepost_milter.doctor.postfix_config import Service, Unreadable
from gatepost_milter.doctor.postfix_own_received import PROBE
from gatepost_policy import scrub

PREPEND_COUNTS_SINCE = (3, 7, 11)  # HISTORY 20231213
RESTRICTIONS = tuple(
    f"smtpd_{stage}_restrictions"
    for stage in ("client", "helo", "sender", "relay", "recipient", "data", "end_of_data")
)


def prepended(live: Live, service: Service) -> Iterator[Finding]:
    """PREPEND actions that put a field about the client where nothing removes it."""
    version = tuple(int(n) for n in re.findall(r"\d+", live.config.get("mail_version")[:12]))
    for name in RESTRICTIONS:
        value = live.config.get(name, service)
        for field in sorted(prepends(value)):
            if version < PREPEND_COUNTS_SINCE:
                yield Finding(
                    "prepend", place(service, name),
                    f"a PREPEND action adds {field}, and this release then hides the wrong field "
                    "from milters",
                    f"no PREPEND in {name} of {service.name} before Postfix 3.7.11",
                )  # fmt: skip
                continue
            kept = not any(
                fnmatchcase(field.lower(), g.lower()) for g in live.settings.submission.remove
            )
            if field.lower() == scrub.TOKEN_FIELD:
                continue  # the token recipe's own; gatepost takes it out
            own = field.lower() == "received"
            # The sweep of mode milter takes every Received with it.
            if own and live.settings.submission.own_received == "milter":
                continue
            if kept or own:
                yield Finding(
                    "prepend", place(service, name),
                    f"a PREPEND action adds {field} to submitted mail, and nothing removes it",
                    f'gatepost.toml: [submission] remove = [..., "{field}"], or no PREPEND '
                    f"in {name} of {service.name}",
                )  # fmt: skip


def prepends(value: str) -> set[str]:
    found = set(re.findall(r"\bPREPEND\s+([!-9;-~]+):", value, re.I))
    for path in re.findall(r"\b[a-z]+:(/[^\s,{}]+)", value):
        try:
            text = Path(path).read_text(errors="replace")
        except OSError:
            continue
        found |= set(re.findall(r"^[^#\n].*\bPREPEND\s+([!-9;-~]+):", text, re.I | re.M))
    return found


def mentions(table: str, word: str) -> bool:
    for path in re.findall(r"\b[a-z]+:(/[^\s,{}]+)", table):
        try:
            if word in Path(path).read_text(errors="replace"):
                return True
        except OSError:
            continue
    return word in table


def policy(live: Live, listeners: tuple[Service, ...]) -> Iterator[Finding]:
    """The policy service must be asked before unknown users are refused."""
    ours = [address.postfix() for address in live.settings.policy.listen]
    ours += [o.replace("127.0.0.1", "localhost") for o in ours]
    for service in listeners or (None,):
        seen = False
        for name in RESTRICTIONS[:5]:
            # Braces group a server with its settings; the restriction's name stands before.
            value = live.config.get(name, service)
            for word in re.findall(r"\{[^{}]*\}|[^\s,]+", value):
                if any(o in word for o in ours):
                    if seen:
                        yield Finding(
                            "policy-order", place(service, name),
                            "unknown users are refused before gatepost-policyd is asked: "
                            "traps without a mailbox go unseen",
                            f"{name} = check_policy_service {ours[0]}, ...",
                        )  # fmt: skip
                        break
                elif word in ("reject_unlisted_recipient", "reject_unverified_recipient"):
                    seen = True


def completion(live: Live) -> Iterator[Finding]:
    """Nothing may be added to a stranger's header before the milter verifies it."""
    if domain := live.config.get("remote_header_rewrite_domain"):
        yield Finding("header-completion", "main.cf",
                      f"strangers' headers are completed with {domain} before gatepost "
                      "verifies them", "remote_header_rewrite_domain =")  # fmt: skip
    if live.config.get("always_add_missing_headers") == "yes":
        yield Finding("header-completion", "main.cf",
                      "missing headers are added to strangers' mail before gatepost verifies "
                      "it", "always_add_missing_headers = no")  # fmt: skip
    words = re.findall(r"[^\s,]+", live.config.get("local_header_rewrite_clients"))
    networks = live.config.get("mynetworks")
    if any(w.startswith("static:") for w in words) or (
        "permit_mynetworks" in words and re.search(r"(?:0\.0\.0\.0|\[?::\]?)/0", networks)
    ):
        yield Finding("header-completion", "main.cf",
                      "strangers' headers are rewritten before gatepost verifies them",
                      "local_header_rewrite_clients = permit_inet_interfaces")  # fmt: skip


def touches_received(live: Live, tables: str) -> bool:
    ours = "Received:\n\tby mx.example (Postfix)\n"
    for table in tables.replace(",", " ").split():
        for text in (PROBE.format(name="Postfix", host="mx.example"), ours):
            try:
                if live.config.lookup(table, text).strip():
                    return True
            except Unreadable:
                return True
    return False
