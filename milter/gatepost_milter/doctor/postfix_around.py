"""Other Postfix settings that undo gatepost's work or hide mail from it: rewriting, proxies,
PREPEND."""

import re
import socket
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gatepost_milter.doctor import postfix_lines, postfix_tables
from gatepost_milter.doctor.finding import Finding, Live, place
from gatepost_milter.doctor.postfix_config import Item, Service
from gatepost_policy import scrub

if TYPE_CHECKING:
    from gatepost_milter.doctor.postfix import Checker

PREPEND_COUNTS_SINCE = (3, 7, 11)  # HISTORY 20231213
RESTRICTIONS = tuple(
    f"smtpd_{stage}_restrictions"
    for stage in ("client", "helo", "sender", "relay", "recipient", "data", "end_of_data")
)
LOOK_S = 2.0
PORTS = {"587": "submission", "465": "submissions"}


def prepended(live: Live, service: Service) -> Iterator[Finding]:
    """PREPEND actions that put a field about the client where nothing removes it."""
    version = tuple(int(n) for n in re.findall(r"\d+", live.config.get("mail_version")[:12]))
    for name in RESTRICTIONS:
        for field in sorted(postfix_tables.prepends(live, name, service)):
            own = field.lower() == "received"
            kept = not any(
                fnmatchcase(field.lower(), g.lower()) for g in live.settings.submission.remove
            )
            if version < PREPEND_COUNTS_SINCE:
                problem = (
                    f"a PREPEND action adds {field}, and this release then hides the wrong field "
                    "from milters"
                )
            elif field.lower() == scrub.TOKEN_FIELD:
                continue  # the token recipe's own; gatepost takes it out
            # In mode "milter" the scrub removes every Received anyway.
            elif (own and live.settings.submission.own_received == "milter") or not (kept or own):
                continue
            elif not own:
                keys = ", ".join(f'"{g}"' for g in (*live.settings.submission.remove, field))
                yield Finding(
                    "prepend", place(service, name),
                    f"a PREPEND action of {name} adds {field} to submitted mail, and nothing "
                    "removes it",
                    f"gatepost.toml: [submission] remove = [{keys}]",
                )  # fmt: skip
                continue
            else:
                problem = f"a PREPEND action adds {field} to submitted mail, and nothing removes it"
            # Only this listener gets the list without PREPEND; inbound listeners keep it.
            value = postfix_tables.without_prepend(live, name, service)
            yield live.mend("prepend", place(service, name), problem,
                            live.config.set(name, value, service))  # fmt: skip


def stranger_name(live: Live, service: Service) -> Iterator[Finding]:
    """An inbound listener whose daemon name is one of our submission listeners' names: its mail
    would be taken for our own users' mail."""
    name = "milter_macro_daemon_name"
    ours = live.settings.submission
    called = live.config.get(name, service)
    if called in (*ours.daemon_names, *ours.second_pass_names):
        yield live.mend(
            "stranger-name", place(service, name),
            f"strangers come in here, and {called!r} says that their mail is ours: it loses its "
            "trace, and no trap sees it",
            live.config.set(name, "$myhostname", live.where_set(service, name)),
        )  # fmt: skip


def macro_version(live: Live, service: Service) -> Iterator[Finding]:
    """Without Postfix's version in {v} gatepost cannot know which field Postfix hides from milters,
    so submissions get 451."""
    name = "milter_macro_v"
    version = live.config.get("mail_version", service)
    if version and version not in live.config.get(name, service):
        yield live.mend(
            "macro-version", place(service, name),
            "the milter is not told which Postfix this is, and refuses all submissions with 451",
            live.config.set(name, "$mail_name $mail_version", live.where_set(service, name)),
        )  # fmt: skip


def twice(live: Live, service: Service, once: str) -> Finding:
    """A listener that asks gatepost twice, as one that adds it to $smtpd_milters does. `once`: the
    value that has it once."""
    name = "smtpd_milters"
    return live.mend(
        "milter-twice", place(service, name),
        "gatepost is asked twice: each message is judged and recorded twice, with two trap hits",
        live.config.set(name, once, live.where_set(service, name)),
    )  # fmt: skip


def proxy_filter(live: Live, service: Service) -> Iterator[Finding]:
    """With a filter before the queue, Postfix sends milters only the envelope, not the message."""
    name = "smtpd_proxy_filter"
    target = live.config.get(name, service)
    if not target:
        return
    ours = live.config.is_submission(service, live.settings.submission.daemon_names)
    problem = (
        f"smtpd_proxy_filter {target}: Postfix asks no milter about this listener's mail, and "
        "everything in it leaves"
        if ours
        else f"smtpd_proxy_filter {target}: Postfix shows milters the envelope only, so signatures "
        "and header of this mail are never seen"
    )
    if name not in service.overrides:
        problem = (
            f"smtpd_proxy_filter {target} on every listener: Postfix shows milters the envelope "
            "only, and what our own users hand in leaves with everything in it"
        )
    # The same filter as content_filter gets the mail after gatepost's edits, and may sign it.
    where = live.where_set(service, name)
    edits = live.config.set(name, "", where)
    host = re.fullmatch(r"(?:inet:)?\[?([^\[\]]*?)\]?:(\w+)", target)
    if host is not None and not target.startswith("unix:"):
        after = f"smtp:[{host.group(1) or '127.0.0.1'}]:{host.group(2)}"
        edits += live.config.set("content_filter", after, where)
    yield live.mend("proxy-filter", place(service, name), problem, edits)


def patience(live: Live, service: Service, ours: Item | None, plain: str) -> Iterator[Finding]:
    """Postfix must wait longer for the answer to a message than gatepost waits for DNS. Else it
    gives up, takes the default action, and results that a stranger wrote in our name stay.
    `plain`: the milters of this listener with ours as `setup postfix` writes it."""
    if ours is None:
        return
    name, wanted = "milter_content_timeout", "300s"
    told = live.config.get(name, service)
    if "content_timeout" in ours.settings:
        name, wanted, told = "smtpd_milters", plain, ours.settings["content_timeout"]
    seconds = postfix_lines.seconds(told)
    needed = live.settings.dkim.message_timeout_ms / 1000
    if seconds is not None and seconds <= needed:
        yield live.mend(
            "content-timeout", place(service, name),
            f"Postfix waits {seconds} seconds for gatepost, which may need {needed:g} for DNS "
            "(dkim.message_timeout_ms): then mail passes unseen",
            live.config.set(name, wanted, live.where_set(service, name)),
        )  # fmt: skip


def options(checker: "Checker", service: Service) -> Iterator[Finding]:
    """What stands in braces behind our milter. One word there that Postfix cannot read ends every
    smtpd of the listener at its start (tried with 3.7.11): nobody is answered."""
    ours, name = checker.own(service), "smtpd_milters"
    problem = postfix_lines.unreadable(ours.settings, postfix_lines.MILTER) if ours else None
    if problem:
        live, plain = checker.live, checker.with_ours(service, checker.wanted_action(service))
        yield live.mend(
            "milter-option", place(service, name),
            f"smtpd cannot read this and does not start: {problem}",
            live.config.set(name, plain, live.where_set(service, name)),
        )  # fmt: skip


def completion(live: Live) -> Iterator[Finding]:
    """Nothing may be added to the header of inbound mail before the milter verifies it. Each value
    is asked of main.cf and of every service that has its own."""
    domain, added, rewrites = (
        "remote_header_rewrite_domain", "always_add_missing_headers", "local_header_rewrite_clients"
    )  # fmt: skip
    for service in _having(live, domain):
        if value := live.config.get(domain, service):
            yield live.mend("header-completion", place(service, domain),
                            f"strangers' headers are completed with {value} before gatepost "
                            "verifies them", live.config.set(domain, "", service),
                            )  # fmt: skip
    for service in _having(live, added):
        if live.config.yes(added, service):
            yield live.mend("header-completion", place(service, added),
                            "missing headers are added to strangers' mail before gatepost verifies "
                            "it", live.config.set(added, "no", service))  # fmt: skip
    for service in _having(live, rewrites):
        words = [w.text for w in postfix_lines.words(live.config.get(rewrites, service))]
        networks = live.config.get("mynetworks", service)
        if any(w.startswith("static:") for w in words) or (
            "permit_mynetworks" in words and re.search(r"(?:0\.0\.0\.0|\[?::\]?)/0", networks)
        ):
            yield live.mend("header-completion", place(service, rewrites),
                            "strangers' headers are rewritten before gatepost verifies them",
                            live.config.set(rewrites, "permit_inet_interfaces", service),
                            )  # fmt: skip
    name = "message_drop_headers"
    for service in _having(live, name):
        words = live.config.get(name, service).replace(",", " ").split()
        rest = [w for w in words if w.lower() != "received"]
        if rest != words:
            yield live.mend("drop-headers", place(service, name),
                            "every Received is dropped before gatepost sees the mail: nobody finds "
                            "a loop, and where mail came from is lost",
                            live.config.set(name, ", ".join(rest), service))  # fmt: skip
    name = "smtpd_hide_client_session"
    for service in _having(live, name) if live.config.knows(name) else ():
        if live.config.yes(name, service):
            edits = live.config.set(name, "no", service)
            # Off in main.cf, and on for each submission listener that had it from main.cf.
            names = live.settings.submission.daemon_names if service is None else ()
            for other in live.config.submissions(names) if names else ():
                if name not in other.overrides:
                    edits += live.config.set(name, "yes", other)
            yield live.mend(
                "client-hidden",
                place(service, name),
                "strangers' mail gets no Received that says where it came from",
                edits,
            )


def _having(live: Live, name: str) -> tuple[Service | None, ...]:
    """main.cf (None), and each service that may get strangers' mail and has a value of its own."""
    names = live.settings.submission.daemon_names
    return (None, *(
        s for s in live.config.services
        if name in s.overrides and s.command in ("smtpd", "cleanup")
        and not live.config.is_submission(s, names)
    ))  # fmt: skip


def soft(live: Live, listeners: tuple[Service, ...]) -> Iterator[Finding]:
    """soft_bounce turns every 5xx into a 4xx (postconf(5))."""
    name = "soft_bounce"
    for service in listeners:
        if live.config.yes(name, service):
            yield live.mend(
                "soft-bounce", place(service, name),
                "soft_bounce: mail that gatepost refuses for good is sent again for days, and each "
                "time is another trap hit",
                live.config.set(name, "no", live.where_set(service, name)),
            )  # fmt: skip


def foreign_submission(
    live: Live, submissions: tuple[Service, ...], ports: Mapping[str, str] = PORTS
) -> Iterator[Finding]:
    """A submission port of this host that Postfix does not serve: Dovecot's proxy, mostly.

    Not checked with -c: the Postfix of another directory may not be the one on this host's ports.
    """
    if "-c" in live.config.called:
        return
    served = {PORTS.get(s.port, s.port) for s in submissions}
    for port, name in ports.items():
        if name in served or (name == "submissions" and "smtps" in served):
            continue
        if not greets(int(port), tls=name == "submissions"):
            continue
        listener = "127.0.0.1:10587"
        options = {
            "syslog_name": "postfix/relayed", "smtpd_sasl_auth_enable": "yes",
            "smtpd_tls_auth_only": "no", "smtpd_authorized_xclient_hosts": "127.0.0.1",
            "smtpd_relay_restrictions": "permit_sasl_authenticated,reject",
            "smtpd_recipient_restrictions": "",
            "milter_macro_daemon_name": postfix_lines.listener_name(live.settings),
        }  # fmt: skip
        entry = f"{listener} inet n - n - - smtpd " + " ".join(
            f"-o {n}={v}" for n, v in options.items()
        )
        yield Finding(
            "foreign-submission", f"port {port}",
            "something other than this Postfix takes submissions here, and what it hands on is a "
            "stranger's mail to gatepost unless it comes to a listener of its own",
            f"docs/neighbours.md, Dovecot: postconf -M '{listener}/inet={entry}', then "
            "submission_relay_port = 10587 and submission_relay_trusted = yes in dovecot.conf",
        )  # fmt: skip


def greets(port: int, tls: bool) -> bool:
    """True where something on loopback answers as a submission server does."""
    try:
        with socket.create_connection(("127.0.0.1", port), LOOK_S) as probe:
            if tls:
                return True  # it would greet inside TLS only
            probe.settimeout(LOOK_S)
            return probe.recv(3) == b"220"
    except OSError:
        return False
