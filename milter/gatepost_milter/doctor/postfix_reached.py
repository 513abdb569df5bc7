"""Is gatepost-policyd asked about every stranger's recipient, and does its answer count?

What tables answer is asked of Postfix's own postmap, about clients, senders and names that no
administrator can have meant (RFC 2606, RFC 5737), and about recipients in this host's own domains.
"""

from collections.abc import Iterator

from gatepost_milter.doctor import postfix_lines, postfix_policy, postfix_tables
from gatepost_milter.doctor.finding import Finding, Live, place
from gatepost_milter.doctor.postfix_config import Service, Unreadable

RECIPIENT = "smtpd_recipient_restrictions"
RELAY = "smtpd_relay_restrictions"
# Answers of an access(5) table after which the list is not read on for a stranger.
ENDS = ("ok", "permit", "permit_auth_destination")
# What a stranger may be called: the whole name and its parents, as access(5) looks them up.
STRANGERS = {
    "client": ("198.51.100.77", "198.51.100", "198.51", "198", "2001:db8:77::25", "2001:db8:77",
               "mail.stranger.example", "stranger.example", "example"),
    "sender": ("somebody@mail.stranger.example", "mail.stranger.example", "stranger.example",
               "example"),
}  # fmt: skip
STRANGERS["helo"] = STRANGERS["client"]
DOMAINS = ("mydestination", "virtual_mailbox_domains", "virtual_alias_domains", "relay_domains")
MOST_DOMAINS = 20  # of each list; each is one more line for one postmap


def check(live: Live, listeners: tuple[Service, ...]) -> Iterator[Finding]:
    """Every finding about these listeners for inbound mail."""
    for service in listeners:
        yield from _early(live, service)
        yield from _only_warns(live, service)
        yield from _answered_before(live, service)
        yield from _open_relay(live, service)


def _lists(live: Live, service: Service) -> dict[str, str]:
    """Every list that asks gatepost-policyd itself: of a stage, or of a restriction class."""
    found: dict[str, str] = {}
    for name in postfix_policy.STAGES:
        value = live.config.get(name, service)
        if postfix_policy.position(live, value) is not None:
            found[name] = value
            for inner, text in postfix_policy.classes(live, value, service):
                if postfix_policy.position(live, text) is not None:
                    found[inner] = text
    return found


def _set(live: Live, code: str, service: Service, name: str, found: list[str], problem: str
         ) -> Finding:  # fmt: skip
    edits = live.config.set(name, ", ".join(found), live.where_set(service, name))
    return live.mend(code, place(service, name), problem, edits)


def _early(live: Live, service: Service) -> Iterator[Finding]:
    """A policy service that is asked before RCPT never hears of a trap."""
    if live.config.get("smtpd_delay_reject", service).lower() != "no":
        return
    asked = [n for n in postfix_policy.STAGES if n in _lists(live, service)]
    if not asked or set(asked) - set(postfix_policy.EARLY):
        return
    name = asked[0]
    words = [w.text for w in postfix_lines.words(live.config.get(name, service))]
    first, end = postfix_policy.position(live, live.config.get(name, service)) or (0, 0)
    ours = " ".join(words[first:end])
    new = postfix_lines.recipient_restrictions(
        live.config.get(RECIPIENT, service), postfix_policy.server(live), lambda _: False
    ).replace(f"check_policy_service {postfix_policy.server(live)}", ours, 1)
    rest = ", ".join([*words[:first], *words[end:]])
    yield live.mend(
        "policy-early", place(service, name),
        f"smtpd_delay_reject = no: {name} is asked before there is a recipient, and gatepost-"
        "policyd hears of no trap",
        live.config.set(name, rest, live.where_set(service, name))
        + live.config.set(RECIPIENT, new, live.where_set(service, RECIPIENT)),
    )  # fmt: skip


def _only_warns(live: Live, service: Service) -> Iterator[Finding]:
    """warn_if_reject turns a refusal by what follows it into a line of the log."""
    for name, value in _lists(live, service).items():
        words = [w.text for w in postfix_lines.words(value)]
        first, _ = postfix_policy.position(live, value) or (0, 0)
        if first and postfix_lines.keyword(words[first - 1]) == "warn_if_reject":
            yield _set(live, "policy-warns", service, name, [*words[: first - 1], *words[first:]],
                       "warn_if_reject before gatepost-policyd: what it refuses is let in, trap "
                       "mail too")  # fmt: skip


def _answered_before(live: Live, service: Service) -> Iterator[Finding]:
    """A table, or a class of restrictions, that lets strangers through before we are asked."""
    for name, value in _lists(live, service).items():
        words = [w.text for w in postfix_lines.words(value)]
        first, end = postfix_policy.position(live, value) or (0, 0)
        for at in range(first):
            # Of the words themselves in a stage's own list `postfix_policy` tells.
            if name in postfix_policy.STAGES and (
                postfix_lines.keyword(words[at]) in postfix_lines.ENDS_FOR_STRANGERS
            ):
                continue
            if ends := _ends(live, words, at, service):
                new = [*words[:at], *words[first:end], *words[at:first], *words[end:]]
                yield _set(live, "policy-order", service, name, new,
                           f"{ends} lets strangers' mail through before gatepost-policyd is asked",
                           )  # fmt: skip
                break


def _open_relay(live: Live, service: Service) -> Iterator[Finding]:
    """A table that lets any client relay, before relaying is refused. Such mail is a stranger's to
    gatepost, and leaves unscrubbed."""
    words = [w.text for w in postfix_lines.words(live.config.get(RELAY, service))]
    names = [postfix_lines.keyword(w) for w in words]
    last = next((n for n, w in enumerate(names) if w in postfix_lines.REFUSES_RELAYING), None)
    for at in range(last or 0):
        if names[at].startswith("check_recipient_") or names[at] == "permit_auth_destination":
            continue  # mail to here is not relayed
        if ends := _ends(live, words, at, service):
            width = 1 if ends == words[at] else 2
            yield _set(live, "open-relay", service, RELAY, [*words[:at], *words[at + width :]],
                       f"{ends} lets every client send to anywhere without a login")  # fmt: skip
            return


def _ends(live: Live, words: list[str], at: int, service: Service, depth: int = 0) -> str:
    """The word (and its table) at this place where it lets strangers' mail through; else ''."""
    word = postfix_lines.keyword(words[at])
    if word == "permit":
        return words[at]
    classes = [w.text for w in postfix_lines.words(live.config.get("smtpd_restriction_classes"))]
    if words[at] in classes:
        inner = [w.text for w in postfix_lines.words(live.config.get(words[at], service))]
        found = depth < 8 and any(
            _permits(inner[n]) or _ends(live, inner, n, service, depth + 1)
            for n in range(len(inner))
        )
        return words[at] if found else ""
    if not word.startswith("check_") or not word.endswith("_access") or at + 1 >= len(words):
        return ""
    table = words[at + 1]
    subject = word.removeprefix("check_").partition("_")[0]
    keys = _recipients(live) if subject == "recipient" else STRANGERS.get(subject, ())
    for answer in _answers(live, table, keys):
        does = [w.text for w in postfix_lines.words(answer)][:1]
        named = does and does[0] in classes and _ends(live, does, 0, service, depth + 1)
        if does and (_permits(does[0]) or named):
            return f"{words[at]} {table}"
    return ""


def _permits(word: str) -> bool:
    """True for a result of access(5) that means OK."""
    low = postfix_lines.keyword(word.strip("{},"))
    return low in ENDS or low.isdigit()


def _recipients(live: Live) -> tuple[str, ...]:
    """Addresses of this host that no table can have meant, and their domains."""
    found: list[str] = []
    for name in DOMAINS:
        words = [w.text for w in postfix_lines.words(live.config.get(name))]
        plain = [w.lower() for w in words if "/" not in w and ":" not in w and "!" not in w]
        for domain in plain[:MOST_DOMAINS]:
            found += (f"gatepost-looks-whether-all-pass@{domain}", domain)
    return tuple(dict.fromkeys(found))


def _answers(live: Live, table: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    """What a table answers for these keys; nothing where it is on another machine, or postmap
    cannot read it (`postfix_tables.unread` names those)."""
    name = postfix_lines.keyword(table).partition(":")[0]
    if not keys or name not in postfix_tables.READABLE:
        return ()
    try:
        return live.config.answers(table, keys)
    except Unreadable:
        return ()
