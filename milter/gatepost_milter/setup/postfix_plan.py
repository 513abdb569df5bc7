"""What a Postfix needs for gatepost, as postconf(1) commands merged with what it has.

`plan(config, settings)` is pure, except that the doctor tests tables with postmap. It asks the
doctor what is wrong, puts the edits of each finding into a copy of the configuration in memory,
and asks again until no finding is left that it may correct. So what setup does and what
`check postfix` asks for cannot differ, and a second plan after the first one is empty.

No restriction, milter or service is removed, and listeners that are not for inbound mail keep their
list of restrictions: mail gets the same answers as before, except those that gatepost gives.
"""

from dataclasses import dataclass
from pathlib import Path

from gatepost_milter.doctor import postfix_lines, postfix_policy
from gatepost_milter.doctor import postfix_networks as networks
from gatepost_milter.doctor.finding import Finding, Live, typed
from gatepost_milter.doctor.postfix import Checker, check
from gatepost_milter.doctor.postfix_config import Postconf, PostfixConfig, Service
from gatepost_policy.config.settings import Settings
from gatepost_policy.system.socket_address import SocketAddress

# The codes of findings that setup corrects by itself. To correct the others something must be
# removed that the administrator put there (a table, a PREPEND, logins on port 25).
MENDS = frozenset({
    "milter-missing", "no-milters", "daemon-name", "submission-milter", "default-action",
    "inbound-action", "rcpt-macros",
    "client-session", "chain-order", "leading-space", "mail-macros", "connect-macros",
    "second-pass", "non-smtpd-milters", "policy-default", "relay-refused", "token-name",
    "stranger-name", "macro-version", "proxy-missing", "proxy-login", "speed-adjust", "proxy-tcp",
    "nested-checks", "end-macros", "policy-early",
})  # fmt: skip
ROUNDS = 100  # more than any configuration has findings; stops an endless loop (a bug)
RECIPIENT = "smtpd_recipient_restrictions"


@dataclass(frozen=True, slots=True)
class Plan:
    """`edits` to make; `left`: the findings that the administrator must correct; `aside`:
    (network, reason) of networks that were not proposed for submission.networks."""

    edits: tuple[Postconf, ...]
    left: tuple[Finding, ...]
    aside: tuple[tuple[str, str], ...]

    def commands(self, config: PostfixConfig) -> tuple[str, ...]:
        """The edits as a person types them."""
        return tuple(typed(config, (edit,)) for edit in self.edits)


def plan(config: PostfixConfig, settings: Settings) -> Plan:
    """The edits that set gatepost up in this Postfix; none where that is already done."""
    current = config
    edits: list[Postconf] = []

    def make(new: tuple[Postconf, ...]) -> None:
        nonlocal current
        edits.extend(new)
        current = current.changed(new)

    if settings.submission.own_received == "proxy":
        make(_second_hop(current, settings))
    make(_policy(Live(current, settings)))
    for _ in range(ROUNDS):
        findings = Checker(current, settings).settings_findings()
        todo = next((f for f in findings if f.code in MENDS and f.edits), None)
        if todo is None:
            break
        make(todo.edits)
    proposal = networks.for_postfix(Live(current, settings))
    return Plan(_last_of_each(edits), check(current, settings), proposal.left_out)


def _last_of_each(edits: list[Postconf]) -> tuple[Postconf, ...]:
    """The last edit of each parameter; main.cf first, because services may refer to it."""
    last = {(e.option, e.value.partition("=")[0].strip()): e for e in edits}
    order = {"-e": 0, "-M": 1, "-P": 2}
    return tuple(sorted(last.values(), key=lambda e: order[e.option]))


def _policy(live: Live) -> tuple[Postconf, ...]:
    """The edits that put gatepost-policyd into the restrictions of each inbound listener."""
    config, names = live.config, live.settings.submission.daemon_names
    edits: tuple[Postconf, ...] = ()
    for service in config.inbound(names):
        lists = (config.get(stage, service) for stage in postfix_policy.STAGES)
        if any(postfix_policy.position(live, value) is not None for value in lists):
            continue
        raw = config.raw(RECIPIENT, service)
        new = postfix_lines.recipient_restrictions(
            raw, postfix_policy.server(live), lambda item: postfix_policy.is_ours(live, item)
        )
        edits += config.set(RECIPIENT, new, live.where_set(service, RECIPIENT))
    if any(e.option == "-e" for e in edits) and not config.raw(RECIPIENT):
        # The list in main.cf was empty. Other listeners that use it get an empty one of their own.
        for other in (*config.submissions(names), *config.reinjections(names), *_behind(config)):
            if RECIPIENT not in other.overrides:
                edits += config.set(RECIPIENT, "", other)
    return edits


def _behind(config: PostfixConfig) -> tuple[Service, ...]:
    """Every smtpd on a unix socket."""
    return tuple(s for s in config.smtpd() if s.type == "unix")


def _second_hop(config: PostfixConfig, settings: Settings) -> tuple[Postconf, ...]:
    """With own_received = "proxy": the edits that make the second hop, where it is missing."""
    if config.service("hop2in") is not None:
        return ()
    chroot = next((s.chroot for s in config.smtpd()), "-")
    where = postfix_lines.spelling(
        SocketAddress.parse(settings.milter.socket), config.get("queue_directory")
    )
    options = {
        **SECOND_HOP,
        "milter_macro_daemon_name": settings.submission.proxy_daemon_name,
        "smtpd_milters": postfix_lines.compact(postfix_lines.milter(where, "tempfail")) or "",
    }
    entry = f"hop2in unix - - {chroot} - - smtpd"
    edits: tuple[Postconf, ...] = (Postconf("-M", f"hop2in/unix={entry}"),)
    return edits + tuple(Postconf("-P", f"hop2in/unix/{n}={v}") for n, v in options.items())


# conf/postfix/master.cf.proxy says what each option is for; a test compares the two.
SECOND_HOP = {
    "syslog_name": "postfix/hop2", "content_filter": "", "smtpd_proxy_filter": "",
    "smtpd_sasl_auth_enable": "no", "mynetworks": "127.0.0.0/8", "smtpd_client_restrictions": "",
    "smtpd_helo_restrictions": "", "smtpd_sender_restrictions": "",
    "smtpd_relay_restrictions": "permit_mynetworks,reject",
    "smtpd_recipient_restrictions": "permit_mynetworks,reject",
    "smtpd_authorized_xforward_hosts": "127.0.0.0/8",
    "receive_override_options": "no_unknown_recipient_checks",
}  # fmt: skip


def links(config: PostfixConfig) -> tuple[Path, ...]:
    """Configuration files that are symbolic links: postconf would put a file in their place."""
    files = (config.directory / name for name in ("main.cf", "master.cf"))
    return tuple(path for path in files if path.is_symlink())
