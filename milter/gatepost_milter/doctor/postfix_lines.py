"""The values that Postfix gets from us, merged with the values that it has. Pure text.

Everything that prints such a line takes it from here: `milterctl run`, `milterctl setup postfix`,
the doctor's advice; a test compares conf/postfix and docs/postfix.md with it. When our item is put
into a list, the other items keep their text and their order.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from gatepost_policy.config.settings import Settings
from gatepost_policy.system.socket_address import SocketAddress
from gatepost_policy.text.times import UNITS

# What may stand in braces behind a milter (postconf(5), smtpd_milters) and behind a policy server
# (SMTPD_POLICY_README).
MILTER = ("connect_timeout", "command_timeout", "content_timeout", "default_action", "protocol")
POLICY = ("default_action", "max_idle", "max_ttl", "policy_context", "request_limit", "retry_delay",
          "timeout", "try_limit")  # fmt: skip
TIMES = (*MILTER[:3], "max_idle", "max_ttl", "retry_delay", "timeout")
# Restrictions that permit our own users and hosts only.
PERMITS_OWN = ("permit_mynetworks", "permit_sasl_authenticated", "permit_tls_clientcerts",
               "permit_tls_all_clientcerts")  # fmt: skip
# After one of these, the policy service is not asked about recipients of inbound mail any more, or
# not about unknown recipients; and most traps are addresses without a mailbox.
ENDS_FOR_STRANGERS = ("permit", "permit_auth_destination", "permit_mx_backup", "reject", "defer",
                      "reject_unlisted_recipient", "reject_unverified_recipient")  # fmt: skip
# Postfix's own list of what keeps a server from being an open relay.
REFUSES_RELAYING = ("reject_unauth_destination", "defer_unauth_destination", "reject", "defer",
                    "defer_if_permit", "check_relay_domains")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a list value, with where it starts in it; a group in braces is one word."""

    text: str
    start: int


def words(value: str) -> tuple[Word, ...]:
    """The words of a Postfix list: commas or white space between, braces keep one together."""
    found: list[Word] = []
    depth, start = 0, -1
    for at, char in enumerate(value):
        if depth == 0 and (char.isspace() or char == ","):
            if start >= 0:
                found.append(Word(value[start:at], start))
                start = -1
            continue
        if start < 0:
            start = at
        depth = max(0, depth + (char == "{") - (char == "}"))
    if start >= 0:
        found.append(Word(value[start:], start))
    return tuple(found)


def keyword(word: str) -> str:
    """A word as Postfix compares the names of restrictions and actions: in any case."""
    return word.lower()


_REFERENCE = re.compile(r"\$(?:([A-Za-z0-9_]+)|\(([A-Za-z0-9_]+)\))|\$\{")
_BRANCH = re.compile(r"([A-Za-z0-9_]+)\s*(?:([?:])(.*))?\Z", re.S)


def expanded(value: str, look_up: Callable[[str], str]) -> str:
    """`value` with `$name`, `$(name)` and `${name}` replaced by the value that `look_up` returns,
    and `${name?text}`, `${name:text}`, `${name?{text}:{text}}` by the text that applies
    (postconf(5)). A comparison (`${{a} == {b} ? ...}`) stays as it is written."""
    out: list[str] = []
    at = 0
    while (match := _REFERENCE.search(value, at)) is not None:
        out.append(value[at : match.start()])
        at = match.end()
        name = match.group(1) or match.group(2)
        if name:
            out.append(look_up(name))
            continue
        end = _closing(value, at)
        inner = _BRANCH.match(value[at:end])
        if inner is None:
            out.append(value[match.start() : end + 1])
        else:
            out.append(_chosen(inner, look_up))
        at = end + 1
    return "".join((*out, value[at:]))


def _closing(value: str, start: int) -> int:
    """The index at which the brace opened before `start` is closed; the length if never."""
    depth = 1
    for at in range(start, len(value)):
        depth += (value[at] == "{") - (value[at] == "}")
        if depth == 0:
            return at
    return len(value)


def _chosen(branch: "re.Match[str]", look_up: Callable[[str], str]) -> str:
    """The value of a name between braces, with or without a condition."""
    name, kind, text = branch.groups()
    if kind is None:
        return look_up(name)
    text = text.strip()
    other = ""
    if text.startswith("{"):
        end = _closing(text, 1)
        text, rest = text[1:end], text[end + 1 :].strip()
        if kind == "?" and rest.startswith(":"):
            other = rest[1:].strip()
            other = other[1 : _closing(other, 1)] if other.startswith("{") else other
    holds = bool(look_up(name)) is (kind == "?")
    return expanded((text if holds else other).strip(), look_up)


def spelling(address: SocketAddress, queue_directory: str) -> str:
    """A socket as Postfix writes it: within the queue directory by a relative name, which is right
    inside and outside a chroot (postconf(5), smtpd_milters)."""
    inside = queue_directory.rstrip("/") + "/"
    if address.kind == "unix" and address.path.startswith(inside):
        return f"unix:{address.path.removeprefix(inside)}"
    return address.postfix()


def milter(where: str, action: str) -> str:
    """Our item of a list of milters."""
    more = ", connect_timeout=10s, command_timeout=30s" if action == "accept" else ""
    return f"{{ {where}, default_action={action}{more} }}"


def policy_server(where: str) -> str:
    """Our policy server with its own settings: where it does not answer, mail goes on (DUNNO)."""
    return f"{{ {where}, timeout=5s, default_action=DUNNO }}"


def milters(value: str, ours: str, is_ours: Callable[[str], bool]) -> str:
    """A list of milters with ours first. The others keep their order: a signer comes last."""
    others = [w.text for w in words(value) if not is_ours(w.text)]
    if len(others) == len(words(value)) and value:
        return f"{ours}, {value}"
    return ", ".join([ours, *others])


def without(value: str, is_ours: Callable[[str], bool]) -> str:
    """A list of milters without ours."""
    return ", ".join(w.text for w in words(value) if not is_ours(w.text))


def recipient_restrictions(value: str, server: str, is_ours: Callable[[str], bool]) -> str:
    """`smtpd_recipient_restrictions` with our policy service in it.

    It comes right after the permits for our own users, so that it is never asked about them, and
    before anything that permits other clients or refuses unknown users. Into an empty list the two
    permits are put as well: they change no answer, because smtpd_relay_restrictions refuses
    relaying.
    """
    ours = f"check_policy_service {server}"
    found = words(value)
    position = policy_position(value, is_ours)
    if position is not None:
        return value[: found[position].start] + server + value[_end(found[position]) :]
    if not found:
        return f"permit_mynetworks, permit_sasl_authenticated, {ours}"
    last = -1
    for number, word in enumerate(found):
        if keyword(word.text) in ENDS_FOR_STRANGERS:
            break
        if keyword(word.text) in PERMITS_OWN:
            last = number
    if last < 0:
        return f"{ours}, {value}"
    end = _end(found[last])
    rest = value[end:].lstrip(" \t\n,")
    return f"{value[:end]}, {ours}" + (f", {rest}" if rest else "")


def policy_position(value: str, is_ours: Callable[[str], bool]) -> int | None:
    """The index of the word that names our policy server in a restriction list, else None."""
    found = words(value)
    for number, word in enumerate(found[:-1]):
        if word.text.lower() == "check_policy_service" and is_ours(found[number + 1].text):
            return number + 1
    return None


def policy_servers(value: str) -> tuple[str, ...]:
    """Every policy server of a restriction list."""
    found = words(value)
    return tuple(
        found[n + 1].text for n, w in enumerate(found[:-1])
        if w.text.lower() == "check_policy_service"
    )  # fmt: skip


def _end(word: Word) -> int:
    return word.start + len(word.text)


def compact(value: str) -> str | None:
    """A list value without white space, as `postconf -P` wants it (Postfix 3.7: "-Pe does not
    accept whitespace"); None where white space is part of a word that is not ours to change."""
    out = []
    for word in words(value):
        text = word.text
        if text.startswith("{") and text.endswith("}"):
            inner = re.sub(r"\s*=\s*", "=", text[1:-1].strip())
            text = "{" + ",".join(w.text for w in words(inner)) + "}"
        if re.search(r"\s", text):
            return None
        out.append(text)
    return ",".join(out)


def settings_of(item: str) -> tuple[str, dict[str, str]]:
    """The target of a milter or policy server, and its own settings in braces."""
    if not item.startswith("{"):
        return item, {}
    # Inside braces as well, commas or spaces stand between; a name and = may stand apart.
    parts = re.sub(r"\s*=\s*", "=", item[1:].removesuffix("}")).replace(",", " ").split()
    pairs = (p.partition("=") for p in parts[1:])
    return (parts[0] if parts else ""), {k: v for k, _, v in pairs}


def unreadable(settings: Mapping[str, str], known: Collection[str]) -> str | None:
    """What Postfix cannot read among the settings in braces; None for nothing."""
    if any("{" in name for name in settings):
        return None  # braces within braces, for a value with blanks: not read here
    for name, value in settings.items():
        if value and name not in known:
            return f"{name!r} is none of {', '.join(sorted(known))}"
        if name in TIMES and seconds(value) is None:
            return f"{name}={value} is no time"
    return None


def seconds(value: str) -> int | None:
    """A time of main.cf in seconds (postconf(5): one letter behind the number is its unit)."""
    found = re.fullmatch(r"(\d+)([smhdw]?)", value.strip(), re.I)
    return int(found[1]) * UNITS[found[2].lower() or "s"] if found else None


def same_socket(item: str, address: SocketAddress, queue_directory: str) -> bool:
    """True where a milter or policy server of Postfix is this socket of ours."""
    target, _ = settings_of(item)
    if address.kind == "unix":
        kind, _, path = target.partition(":")
        return kind in ("unix", "local") and (
            path == address.path
            or f"{queue_directory.rstrip('/')}/{path.lstrip('/')}" == address.path
        )
    match = re.fullmatch(r"(?:inet:)?\[?([^\]]*?)\]?:(\w+)", target)
    if not match or match.group(2) != str(address.port):
        return False
    host = {"localhost": "127.0.0.1"}.get(match.group(1), match.group(1))
    return address.host in (host, "0.0.0.0", "::")


def policy_sockets(settings: Settings) -> tuple[SocketAddress, ...]:
    """Where gatepost-policyd listens."""
    return settings.policy.listen


def for_an_empty_postfix(settings: Settings) -> Iterator[tuple[str, str]]:
    """(name, value) pairs for the main.cf of a Postfix in which none of these is set."""
    where = SocketAddress.parse(settings.milter.socket).postfix()
    server = policy_server(policy_sockets(settings)[0].postfix())
    yield "smtpd_milters", milter(where, "accept")
    yield "non_smtpd_milters", milter(where, "accept")
    yield "smtpd_recipient_restrictions", recipient_restrictions("", server, lambda _: False)


def ours_of(value: str) -> str:
    """Our part of a value of `for_an_empty_postfix`."""
    return value[value.find("check_policy_service") :] if "check_policy_service" in value else value


def submission_options(settings: Settings) -> Iterator[tuple[str, str]]:
    """(name, value) pairs for the master.cf entry of a submission listener in which none is set."""
    where = SocketAddress.parse(settings.milter.socket).postfix()
    yield "smtpd_milters", compact(milter(where, "tempfail")) or ""
    yield "milter_macro_daemon_name", listener_name(settings)


def listener_name(settings: Settings) -> str:
    """The milter_macro_daemon_name by which gatepost knows a submission listener."""
    names = settings.submission.daemon_names
    return names[0] if names else "ORIGINATING"


def second_pass_names(settings: Settings) -> tuple[str, ...]:
    """The daemon names of listeners where mail comes back that gatepost has already seen."""
    return settings.submission.second_pass_names
