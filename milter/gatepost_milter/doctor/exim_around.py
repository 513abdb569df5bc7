"""Parts of an Exim configuration that undo gatepost's files, and keys that Exim cannot obey."""

import re
from collections.abc import Iterator

from gatepost_milter.doctor import exim_order
from gatepost_milter.doctor.exim_config import EximConfig, Statement
from gatepost_milter.doctor.finding import Finding
from gatepost_policy.config.settings import Settings, Submission
from gatepost_policy.config.values import keys_of

# [192.0.2.1]:587, [2001:db8::1]::587 (a list with colons between), 192.0.2.1.587, 2001:db8::1.587
_PORT = re.compile(
    r"(?:\]\s*::?|(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}\.|:[0-9a-f]+\.(?!\d+\.))(\d{1,5})(?![\d.])"
)
NAMED_PORTS = {"submission": "587", "submissions": "465", "smtps": "465"}
# The keys of [submission] that conf/exim, or gatepost-policyd behind it, obeys.
OBEYED = frozenset({"daemon_names", "trusted_relays", "remove", "local", "client_received",
                    "mta_token", "proxy_daemon_name"})  # fmt: skip
# Of these keys, conf/exim can do only the value given here.
ONLY = {"client_received": "anonymise", "local": "scrub"}


def check(config: EximConfig, settings: Settings) -> Iterator[Finding]:
    """Every finding about what stands around gatepost's own files."""
    yield from _not_obeyed(config, settings.submission)
    yield from _ports(config)
    yield from _verbs(config)
    yield from _router(config)
    yield from _forged(config)
    if settings.submission.local == "scrub":
        yield from _local(config)


def _masks(config: EximConfig) -> bool:
    """True where the ACL replaces Message-ID and no condition switches that off."""
    return any(
        "message-id" in (v.strip().lower() for v in statement.values("remove_header"))
        and not any("bool{no}" in value for value in statement.values("condition"))
        for statement in config.reached("acl_smtp_data")
    )


def _not_obeyed(config: EximConfig, submission: Submission) -> Iterator[Finding]:
    """Keys that say something which Exim cannot do: no set-up is right that promises it."""
    plain = Submission()
    for key in (field.name for field in keys_of(Submission)):
        value, default = getattr(submission, key), getattr(plain, key)
        wanted = ONLY.get(key, default)
        if value == wanted or (key in OBEYED and key not in ONLY):
            continue
        if key == "message_id":
            if not _masks(config):
                yield Finding(
                    "not-obeyed", "gatepost.toml, submission.message_id",
                    "Exim leaves host names in message ids unless it is told to take them out",
                    "GATEPOST_MASK_HOST = yes (conf/exim/gatepost-main.conf)",
                )  # fmt: skip
            continue
        text = str(list(map(str, wanted))) if isinstance(wanted, tuple) else f'"{wanted}"'
        yield Finding(
            "not-obeyed", f"gatepost.toml, submission.{key}",
            "Exim does not do this; its mail goes as if the key said "
            + text.replace("'", '"'),
            f"gatepost.toml: [submission] {key} = " + text.replace("'", '"'),
        )  # fmt: skip


def _list(value: str) -> list[str]:
    """The items of an Exim list, separated by colons, or by the character after `<`; names of
    ports as numbers."""
    value = value.strip()
    sep = ":"
    if value.startswith("<") and len(value) > 1:
        sep, value = value[1], value[2:]
    return [NAMED_PORTS.get(w.strip(), w.strip()) for w in value.split(sep) if w.strip()]


def _ports(config: EximConfig) -> Iterator[Finding]:
    """Every port where our own users submit mail must be in GATEPOST_PORTS."""
    received = config.options.get("received_header_text", "")
    match = re.search(r"\{inlist\{\$received_port\}\{([^{}]*)\}\}", received)
    if match is None:
        return  # not the text of conf/exim: exim.py has a finding for that
    ours = _list(match.group(1))
    listens = _list(config.options.get("daemon_smtp_ports", ""))
    listens += _PORT.findall(config.options.get("local_interfaces", ""))
    tls = _list(config.options.get("tls_on_connect_ports", ""))
    missing = [p for p in dict.fromkeys([*listens, *tls])
               if (p in ("587", "465") or p in tls) and p not in ours]  # fmt: skip
    if missing:
        yield Finding(
            "ports", "GATEPOST_PORTS",
            f"mail handed in on port {' and '.join(missing)} is ours only where somebody logged in",
            f"GATEPOST_PORTS = {' : '.join([*ours, *missing])}",
        )  # fmt: skip


# What a statement with the wrong verb does with the answer of gatepost's ACL.
_WRONG = {
    "warn": "does not care for the answer",
    "accept": "lets everything in that is not refused, to any domain",
    "discard": "throws away what is not refused",
    "deny": "refuses what is not refused", "drop": "refuses what is not refused",
    "defer": "puts off what is not refused", "require": "refuses what is not refused",
}  # fmt: skip


def _verbs(config: EximConfig) -> Iterator[Finding]:
    """The answer of gatepost-policyd counts only where the ACL that asks is required."""
    for option, stage in (("acl_smtp_rcpt", "rcpt"), ("acl_smtp_data", "data")):
        for statement in config.reached(option):
            denies = statement.verb in exim_order.ENDS
            right = "!acl" if denies else "acl"
            for name in config.calls(statement):
                inner = config.acls.get(name, ())
                keys = {k for k, value in statement.parts if name in value and k in ("acl", "!acl")}
                known = statement.verb == "require" or denies
                # An ACL called in an expansion has no `acl` condition: its text decides there.
                if not keys or (known and right in keys) or not _refuses(inner, stage):
                    continue
                yield Finding(
                    "verb", f"{option} = {config.options[option]}",
                    f"{exim_order.written(statement)} asks gatepost-policyd and "
                    f"{_WRONG[statement.verb]}",
                    f"require acl = {name}",
                )  # fmt: skip


def _refuses(statements: tuple[Statement, ...], stage: str) -> bool:
    asks = any(re.search(rf"\bstage={stage}\b", v) for s in statements for _, v in s.parts)
    return asks and any(s.verb in ("deny", "defer", "drop") for s in statements)


def _router(config: EximConfig) -> Iterator[Finding]:
    """gatepost's router, which drops the recipients that get no copy, must be the first one."""
    routers = re.split(r"^begin routers\s*$", config.text, maxsplit=1, flags=re.M)
    section = re.split(r"^begin ", routers[1], maxsplit=1, flags=re.M)[0] if routers[1:] else ""
    names = list(re.finditer(r"^[ \t]*([A-Za-z0-9_]+):\s*$", section, re.M))
    kept = re.search(r"^\s*(?:warn\s+)?set\s+(acl_[cm]\w+)\s*=[^\n]*drop=", config.text, re.M)
    at = section.find(f"${kept.group(1) if kept else 'acl_m_gatepost_drop'}")
    change = "right after begin routers: .include /etc/exim4/gatepost/gatepost-routers.conf"
    if at < 0:
        yield Finding("router", "begin routers",
                      "a trap beside real recipients, and a discarded message, are delivered",
                      change)  # fmt: skip
    elif names and section.rfind(names[0].group(0), 0, at) >= 0:
        inside = max((n for n in names if n.start() < at), key=lambda n: n.start())
        if inside is not names[0]:
            yield Finding("router", f"router {inside.group(1)}",
                          f"router {names[0].group(1)} delivers before gatepost's may drop",
                          change)  # fmt: skip


def _removed(config: EximConfig, option: str) -> set[str]:
    """The names of fields (lower-case) that the ACL of this option removes by their plain names."""
    return {
        name.strip().lower()
        for statement in config.reached(option)
        for name in statement.values("remove_header")
    }


def _forged(config: EximConfig) -> Iterator[Finding]:
    """RFC 8601 5: results in our name that others wrote are removed, a local program's too."""
    for option in ("acl_smtp_data", "acl_not_smtp"):
        removed = _removed(config, option)
        # An ACL that removes nothing is told of as a whole.
        if removed and "authentication-results" not in removed:
            acl = config.options.get(option, "")
            yield Finding(
                "forged-results", f"{option} = {acl}",
                "Authentication-Results in our name stay, and who reads them believes the sender",
                f"warn acl = gatepost_forged, at the top of {acl}",
            )  # fmt: skip


def _local(config: EximConfig) -> Iterator[Finding]:
    """Mail of cron and web programs goes through acl_not_smtp, and Exim adds a Sender to it."""
    above = exim_order.unscrubbed_local(config)
    if above is not None:
        yield Finding(
            "not-smtp", f"acl_not_smtp = {config.options['acl_not_smtp']}",
            f"{exim_order.written(above)} ends the ACL, and this mail leaves as programs wrote it",
            f"warn acl = gatepost_scrub, above: {exim_order.written(above)}",
        )  # fmt: skip
    if not _removed(config, "acl_not_smtp") - {"authentication-results"}:
        acl = config.options.get("acl_not_smtp", "")
        yield Finding(
            "not-smtp", f"acl_not_smtp = {acl}" if acl else "acl_not_smtp is not set",
            "mail from the exim program on this host leaves as programs wrote it, and "
            "submission.local is scrub",
            "acl_not_smtp = gatepost_not_smtp" if not acl
            else f"warn acl = gatepost_scrub, at the top of {acl}",
        )  # fmt: skip
    off = config.options.get("local_from_check", "").lower() in ("false", "no")
    if not off and not {"no_local_from_check", "not_local_from_check"} & set(config.options):
        yield Finding("local-from", "local_from_check",
                      "Exim adds a Sender with the login of whoever calls it",
                      "local_from_check = false")  # fmt: skip
