"""Is gatepost-policyd asked in the right place, and is no good mail refused because of its line?"""

from collections.abc import Iterator

from gatepost_milter.doctor import postfix_lines
from gatepost_milter.doctor.finding import Finding, Live, place
from gatepost_milter.doctor.postfix_config import Service
from gatepost_milter.doctor.sockets import reachable
from gatepost_policy.system.socket_address import SocketAddress

STAGES = tuple(
    f"smtpd_{stage}_restrictions" for stage in ("client", "helo", "sender", "relay", "recipient")
)
# A policy service may be asked here too, but no single recipient can be refused here.
LATE = ("smtpd_data_restrictions", "smtpd_end_of_data_restrictions")
# With smtpd_delay_reject = no, no recipient is known at these (postconf(5)).
EARLY = STAGES[:3]
WAITS_MAX = 100  # seconds: Postfix's own default of smtpd_policy_service_timeout
UNLISTED = ("reject_unlisted_recipient", "reject_unverified_recipient")


def check(live: Live, listeners: tuple[Service, ...]) -> Iterator[Finding]:
    """Check each of `listeners` (those for inbound mail) by itself."""
    for service in listeners:
        yield from _server(live, service)
        yield from _order(live, service)
        yield from _relaying(live, service)


def is_ours(live: Live, item: str) -> bool:
    """True where a policy server is gatepost-policyd."""
    queue = live.config.get("queue_directory")
    return any(
        postfix_lines.same_socket(item, address, queue)
        for address in postfix_lines.policy_sockets(live.settings)
    )


def server(live: Live) -> str:
    """gatepost-policyd as a policy server of this Postfix."""
    address = postfix_lines.policy_sockets(live.settings)[0]
    queue = live.config.get("queue_directory")
    return postfix_lines.policy_server(postfix_lines.spelling(address, queue))


def position(live: Live, value: str) -> tuple[int, int] | None:
    """(first, end) of the words in a restriction list that ask gatepost-policyd, by its socket or
    by the name of a restriction class that asks it; None where none do. `end` is not included."""
    at = postfix_lines.policy_position(value, lambda item: is_ours(live, item))
    if at is not None:
        return at - 1, at + 1
    for number, word in enumerate(postfix_lines.words(value)):
        if any(_direct(live, inner) for _, inner in classes(live, word.text)):
            return number, number + 1
    return None


def _direct(live: Live, value: str) -> bool:
    return postfix_lines.policy_position(value, lambda item: is_ours(live, item)) is not None


def classes(
    live: Live, value: str, service: Service | None = None, depth: int = 0
) -> Iterator[tuple[str, str]]:
    """Name and value of every restriction class that a list reaches (smtpd_restriction_classes)."""
    known = [w.text for w in postfix_lines.words(live.config.get("smtpd_restriction_classes"))]
    for word in postfix_lines.words(value) if depth < 8 else ():
        if word.text in known:
            inner = live.config.get(word.text, service)
            yield word.text, inner
            yield from classes(live, inner, service, depth + 1)


def _set(
    live: Live, code: str, service: Service, name: str, value: str, problem: str
) -> Finding:  # fmt: skip
    target = live.where_set(service, name)
    return live.mend(code, place(service, name), problem, live.config.set(name, value, target))


def _server(live: Live, service: Service) -> Iterator[Finding]:
    """While the policy service is down, mail must be accepted (Postfix's default answer is 451)."""
    lists = {name: live.config.get(name, service) for name in (*STAGES, *LATE)}
    for value in tuple(lists.values()):
        lists.update(classes(live, value, service))
    for name, value in lists.items():
        if not _direct(live, value):
            continue
        first, _ = position(live, value) or (0, 0)
        item = postfix_lines.words(value)[first + 1].text
        _, own = postfix_lines.settings_of(item)
        new = postfix_lines.recipient_restrictions(value, server(live), lambda i: is_ours(live, i))
        if problem := postfix_lines.unreadable(own, postfix_lines.POLICY):
            yield _set(live, "policy-option", service, name, new,
                       f"smtpd cannot read this and does not start: {problem}")  # fmt: skip
            continue
        waits = own.get("timeout") or live.config.get("smtpd_policy_service_timeout", service)
        if (postfix_lines.seconds(waits) or 0) > WAITS_MAX:
            yield _set(live, "policy-timeout", service, name, new,
                       f"where gatepost-policyd hangs, each recipient waits {waits}")  # fmt: skip
        action = own.get("default_action") or live.config.get(
            "smtpd_policy_service_default_action", service
        )
        if action.upper().split()[:1] != ["DUNNO"]:
            yield _set(live, "policy-default", service, name, new,
                       "while gatepost-policyd is down, all mail is refused for now (default "
                       f"action {action!r})")  # fmt: skip


def _order(live: Live, service: Service) -> Iterator[Finding]:
    """The policy service must be asked before unknown users are refused."""
    asked = [n for n in STAGES if position(live, live.config.get(n, service)) is not None]
    if live.config.get("smtpd_delay_reject", service).lower() == "no":
        asked = [n for n in asked if n not in EARLY]  # `postfix_reached` has findings for these
    if not asked:
        return
    problem = (
        "unknown users are refused before gatepost-policyd is asked: traps without a mailbox go "
        "unseen"
    )
    for name in STAGES[: STAGES.index(asked[0])]:
        value = live.config.get(name, service)
        found = [w.text for w in postfix_lines.words(value)]
        if any(postfix_lines.keyword(w) in UNLISTED for w in found):
            rest = ", ".join(w for w in found if postfix_lines.keyword(w) not in UNLISTED)
            edits = live.config.set(name, rest, live.where_set(service, name))
            # smtpd_reject_unlisted_recipient refuses unlisted recipients later anyway, so only
            # reject_unverified_recipient must be put in again.
            if UNLISTED[1] in map(postfix_lines.keyword, found):
                last = STAGES[-1]
                edits += live.config.set(
                    last, f"{live.config.get(last, service)}, {UNLISTED[1]}",
                    live.where_set(service, last),
                )  # fmt: skip
            yield live.mend("policy-order", place(service, name), problem, edits)
    value = live.config.get(asked[0], service)
    listed = [w.text for w in postfix_lines.words(value)]
    span = position(live, value)
    assert span is not None
    first, end = span
    before = [postfix_lines.keyword(w) for w in listed[:first]]
    if any(w in postfix_lines.ENDS_FOR_STRANGERS for w in before):
        rest = ", ".join(w for n, w in enumerate(listed) if not first <= n < end)
        new = postfix_lines.recipient_restrictions(rest, server(live), lambda i: is_ours(live, i))
        if end - first == 1:  # a class of restrictions moves as a whole
            new = new.replace(f"check_policy_service {server(live)}", listed[first], 1)
        if not any(w in UNLISTED for w in before):
            problem = "strangers are let through before gatepost-policyd is asked"
        yield _set(live, "policy-order", service, asked[0], new, problem)


def _relaying(live: Live, service: Service) -> Iterator[Finding]:
    """reject_unauth_destination must not refuse our own users."""
    name, relay = STAGES[-1], live.config.get("smtpd_relay_restrictions", service)
    value = live.config.get(name, service)
    found = [w.text for w in postfix_lines.words(value)]
    names = [postfix_lines.keyword(w) for w in found]
    relays = [postfix_lines.keyword(w.text) for w in postfix_lines.words(relay)]
    allowed = [w for w in relays if w in postfix_lines.PERMITS_OWN]
    at = next((n for n, w in enumerate(names) if w in postfix_lines.REFUSES_RELAYING[:2]), None)
    asked = position(live, value)
    if at is None or asked is None or not allowed:
        return
    missing = [w for w in allowed if w not in names[:at]]
    if not missing:
        return
    # The restriction stays, because the administrator put it there. The permits of our own users
    # are put before it, and before gatepost-policyd, which need not be asked about them.
    start = postfix_lines.words(value)[min(at, asked[0])].start
    new = f"{value[:start]}{', '.join(missing)}, {value[start:]}"
    yield _set(
        live, "relay-refused", service, name, new,
        f"{found[at]} refuses mail that {' and '.join(missing)} in smtpd_relay_restrictions let "
        "through (554 Relay access denied)",
    )  # fmt: skip


def answers(live: Live, listeners: tuple[Service, ...]) -> Iterator[Finding]:
    """Every policy server that is asked must answer."""
    queue = live.config.get("queue_directory")
    done: set[str] = set()
    for service in listeners:
        for name in (*STAGES, *LATE):
            for item in postfix_lines.policy_servers(live.config.get(name, service)):
                target, _ = postfix_lines.settings_of(item)
                address = _address(target, queue)
                if target in done or address is None:
                    continue
                done.add(target)
                if problem := reachable(address):
                    ours = is_ours(live, item)
                    change = (
                        "start gatepost-policyd, or correct [policy] listen in gatepost.toml"
                        if ours
                        else f"start what listens on {target}, or take it out of {name}"
                    )
                    yield Finding("policy-unreachable", place(service, name),
                                  f"the policy service {target} is asked and does not answer: "
                                  f"{problem}", change)  # fmt: skip


def _address(target: str, queue: str) -> SocketAddress | None:
    kind, _, rest = target.partition(":")
    try:
        if kind in ("unix", "local"):
            path = rest if rest.startswith("/") else f"{queue.rstrip('/')}/{rest}"
            return SocketAddress.parse(f"unix:{path}")
        host, _, port = rest.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        return SocketAddress.parse(f"{'inet6' if ':' in host else 'inet'}:{port}@{host}")
    except ValueError:
        return None  # a host name, or a service of this Postfix (private/...): not ours to try
