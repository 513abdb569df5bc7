"""What is wrong with a Postfix that gatepost sits behind. Each finding has the line to change.

`check(config, settings)` answers with findings in the order in which mail meets the settings;
none means right. A right Postfix draws no finding, a wrong one draws at least the one that names
its fault. Only `socket_findings` looks at the file system and the network.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from gatepost_milter.postfix_config import Item, PostfixConfig, Service, Unreadable, items
from gatepost_milter.socket_checks import may_connect, reachable
from gatepost_policy import scrub
from gatepost_policy.settings import Settings
from gatepost_policy.sockets import SocketAddress

SAFE = ("tempfail", "reject")
RESTRICTIONS = tuple(
    f"smtpd_{stage}_restrictions"
    for stage in ("client", "helo", "sender", "relay", "recipient", "data", "end_of_data")
)
PROBE = (
    "Received: from ehlo.example (ptr.example [192.0.2.77])\n"
    "\t(Authenticated sender: login)\n"
    "\tby mx.example ({name}) with ESMTPSA id ABC123\n"
    "\tfor <b@example.org>; Fri, 20 Nov 2026 10:00:00 +0000\n"
)
REPLACED = "Received: by mx.example (Postfix) with ESMTPSA id ABC123;"


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is a stable word, `where` the file and service, `change` the line as it should be."""

    code: str
    where: str
    problem: str
    change: str


def check(config: PostfixConfig, settings: Settings) -> tuple[Finding, ...]:
    """Every finding. Never raises for a configuration that postconf could read."""
    return tuple(Checker(config, settings).findings())


class Checker:
    """One configuration under one gatepost.toml."""

    def __init__(self, config: PostfixConfig, settings: Settings) -> None:
        self.config, self.settings = config, settings
        self.names = settings.submission.daemon_names
        self.socket = SocketAddress.parse(settings.milter.socket)
        self.ours = self.socket.postfix()

    def findings(self) -> Iterator[Finding]:
        submissions = self.config.submissions(self.names)
        proxy = self.settings.submission.own_received == "proxy"
        listeners = list(self.config.inbound(self.names))
        yield from self.presence(listeners, submissions)
        for service in submissions:
            entry = self.second_hop(service) if proxy else service
            if entry is None:
                yield Finding(
                    "proxy-missing", _master(service),
                    "submission.own_received is proxy, and this listener has no second hop",
                    "  -o smtpd_proxy_filter=unix:private/hop2in",
                )  # fmt: skip
                continue
            if proxy:
                yield from self.proxy(service)
            yield from self.submission(entry, service)
            listeners.append(entry)
        for service in listeners:
            yield from self.chain(service)
        yield from self.policy(self.config.inbound(self.names))
        yield from self.completion()
        yield from self.socket_findings(listeners)

    # -- the milter -----------------------------------------------------------------------------

    def is_ours(self, item: Item) -> bool:
        """True where a smtpd_milters item is our socket."""
        if self.socket.kind == "unix":
            kind, _, path = item.target.partition(":")
            queue = self.config.get("queue_directory")
            mine = self.socket.path
            return kind in ("unix", "local") and (
                path == mine or f"{queue}/{path.lstrip('/')}" == mine
            )
        match = re.fullmatch(r"inet:\[?([^\]]*?)\]?:(\w+)", item.target)
        if not match or match.group(2) != str(self.socket.port):
            return False
        host = {"localhost": "127.0.0.1"}.get(match.group(1), match.group(1))
        return self.socket.host in (host, "0.0.0.0", "::") or host == "::1"

    def milters(self, service: Service) -> tuple[Item, ...]:
        return items(self.config.get("smtpd_milters", service))

    def own(self, service: Service) -> Item | None:
        return next((i for i in self.milters(service) if self.is_ours(i)), None)

    def presence(
        self, inbound: list[Service], submissions: tuple[Service, ...]
    ) -> Iterator[Finding]:
        """The milter must be asked at all, by the daemons that take mail from the network."""
        if any(self.own(s) for s in (*inbound, *submissions)):
            return
        if any(self.own(s) for s in self.config.smtpd()):
            return  # the second hop has it
        local = any(self.is_ours(i) for i in items(self.config.get("non_smtpd_milters")))
        why = "non_smtpd_milters sees only mail from sendmail(1)" if local else "it sees no mail"
        yield Finding(
            "milter-missing", "main.cf", f"gatepost is not in smtpd_milters: {why}",
            f"smtpd_milters = {{ {self.ours}, default_action=accept }}",
        )  # fmt: skip

    def submission(self, service: Service, outer: Service) -> Iterator[Finding]:
        """What a listener of our own users needs. `service` is where the milter sits."""
        where, mode = _master(service), self.settings.submission.own_received
        wanted = self.settings.submission.proxy_daemon_name if mode == "proxy" else (
            self.names[0] if self.names else "ORIGINATING"
        )
        name = self.config.get("milter_macro_daemon_name", service)
        if name != wanted and (mode == "proxy" or name not in self.names):
            yield Finding(
                "daemon-name", where,
                f"the milter cannot tell submissions from inbound mail: the listener calls itself "
                f"{name!r}",
                f"  -o milter_macro_daemon_name={wanted}",
            )  # fmt: skip
        for one in {service.key: service, outer.key: outer}.values():
            if "no_milters" in self.config.get("receive_override_options", one):
                yield Finding("no-milters", _master(one), "milters are switched off here",
                              "  -o receive_override_options=")  # fmt: skip
        item = self.own(service)
        if item is None:
            yield Finding(
                "submission-milter", where, "gatepost does not see this listener's mail",
                f"  -o smtpd_milters={{{self.ours},default_action=tempfail}}",
            )  # fmt: skip
        else:
            action = item.settings.get("default_action") or self.config.get(
                "milter_default_action", service
            )
            if action not in SAFE:
                yield Finding(
                    "default-action", where,
                    f"when gatepost is down, mail leaves as it is (default action {action!r})",
                    f"  -o smtpd_milters={{{self.ours},default_action=tempfail}}",
                )  # fmt: skip
        if table := self.config.get("smtpd_milter_maps", service):
            if self._mentions(table, "DISABLE"):
                yield Finding("milter-maps", where, f"{table} switches milters off for some clients",
                              "  -o smtpd_milter_maps=")  # fmt: skip
        yield from self.own_hop(outer if mode != "proxy" else service)
        yield from self.prepended(outer)

    def own_hop(self, service: Service) -> Iterator[Finding]:
        """How our own Received is hidden, by mode."""
        where = _master(service)
        mode, token = self.settings.submission.own_received, self.settings.submission.mta_token
        name = self.config.get("mail_name", service) or "Postfix"
        version = self.config.get("mail_version", service)
        if mode == "milter" and not scrub.verified(f"{name} {version}"):
            yield Finding(
                "postfix-version", where,
                f"{name} {version} is not on the list of verified releases (3.0 to 3.11): "
                "submitted mail gets 451",
                'gatepost.toml: [submission] own_received = "mta"',
            )  # fmt: skip
        if mode != "mta":
            return
        if not token:
            if self.config.get("smtpd_hide_client_session", service) != "yes":
                yield Finding(
                    "client-session", where, "Postfix writes the client into its Received field",
                    "  -o smtpd_hide_client_session=yes",
                )  # fmt: skip
            return
        if name != token:
            yield Finding("token-name", where, "the listener does not call itself by the token",
                          f"  -o mail_name={token}")  # fmt: skip
        cleanup = self.config.service(self.config.get("cleanup_service_name", service))
        table = self.config.get("header_checks", cleanup) if cleanup else ""
        if cleanup is None or not table:
            yield Finding("token-table", where, "no header_checks rewrite our own Received field",
                          "  -o header_checks=regexp:/etc/postfix/submission_received")  # fmt: skip
            return
        yield from self._token_table(cleanup, table, token)

    def _token_table(self, cleanup: Service, table: str, token: str) -> Iterator[Finding]:
        where, advice = _master(cleanup), "copy conf/postfix/submission_received there"
        try:
            got = self.config.lookup(table, PROBE.format(name=token))
        except Unreadable as error:
            yield Finding("token-table", where, f"{table} cannot be read: {error}", advice)
            return
        if f"REPLACE {REPLACED}" not in got or "ehlo.example" in got.partition("REPLACE")[2]:
            yield Finding("token-table", where,
                          f"{table} does not rewrite our own Received field", advice)  # fmt: skip
        for name in ("mime_header_checks", "nested_header_checks"):
            # Left alone they are header_checks again, and match inside attached messages.
            if self.config.get(name, cleanup) == table:
                yield Finding("nested-checks", where, f"{name} applies the table to attachments",
                              f"  -o {name}=")  # fmt: skip

    def second_hop(self, service: Service) -> Service | None:
        """The service behind smtpd_proxy_filter."""
        target = self.config.get("smtpd_proxy_filter", service)
        path = target.removeprefix("unix:")
        for other in self.config.smtpd():
            folder = "private" if other.type == "unix" else "public"
            if other.type == "unix" and path == f"{folder}/{other.name}":
                return other
            if other.type == "inet" and target.strip("[]").endswith(f":{other.port}"):
                return other
        return None

    def proxy(self, service: Service) -> Iterator[Finding]:
        """The two-hop set-up's own traps."""
        where = _master(service)
        if not self.config.get("smtpd_proxy_filter", service).startswith("unix:"):
            yield Finding("proxy-tcp", where, "any local user can relay through a TCP second hop",
                          "  -o smtpd_proxy_filter=unix:private/hop2in")  # fmt: skip
        if "speed_adjust" in self.config.get("smtpd_proxy_options", service):
            yield Finding("speed-adjust", where, "one refused recipient refuses the whole message",
                          "  -o smtpd_proxy_options=")  # fmt: skip
        if self.config.get("smtpd_sasl_authenticated_header", service) != "yes":
            yield Finding("proxy-login", where, "the second hop cannot see who logged in: 451",
                          "  -o smtpd_sasl_authenticated_header=yes")  # fmt: skip

    def chain(self, service: Service) -> Iterator[Finding]:
        """Order and protocol of the milters of one listener."""
        milters = self.milters(service)
        mine = next((n for n, i in enumerate(milters) if self.is_ours(i)), None)
        if mine is None:
            return
        where = _where(service, "smtpd_milters")
        if mine:
            yield Finding(
                "chain-order", where,
                f"{milters[0].target} comes before gatepost: a signer would sign what gatepost then "
                "changes",
                "smtpd_milters = " + ", ".join(
                    [self.ours, *(i.target for n, i in enumerate(milters) if n != mine)]
                ),
            )  # fmt: skip
        protocol = milters[mine].settings.get("protocol") or self.config.get(
            "milter_protocol", service
        )
        if (match := re.match(r"\d+", protocol)) and int(match.group()) < 6:
            yield Finding(
                "leading-space", _where(service, "milter_protocol"),
                f"milter protocol {protocol} has no leading space in header values: DKIM c=simple "
                "fails and fields cannot be replaced",
                "milter_protocol = 6",
            )  # fmt: skip
        if "{auth_authen}" not in self.config.raw("milter_mail_macros", service):
            macros = self.config.get("milter_mail_macros", service)
            yield Finding("mail-macros", _where(service, "milter_mail_macros"),
                          "the milter is not told who logged in",
                          f"milter_mail_macros = {macros} {{auth_authen}}")  # fmt: skip
        connect = self.config.raw("milter_connect_macros", service).split()
        for macro in ("j", "{daemon_name}", "v"):
            if macro not in connect:
                yield Finding("connect-macros", _where(service, "milter_connect_macros"),
                              f"the milter is not told macro {macro}",
                              "milter_connect_macros = j {daemon_name} {daemon_addr} v _",
                              )  # fmt: skip
        if checks := self.config.get("milter_header_checks"):
            if self._touches_received(checks):
                yield Finding(
                    "milter-header-checks", "main.cf",
                    f"{checks} acts on Received: our own hop stays, a client's is deleted",
                    "milter_header_checks =",
                )  # fmt: skip

    def _touches_received(self, tables: str) -> bool:
        for table in tables.replace(",", " ").split():
            for text in (PROBE.format(name="Postfix"), "Received:\n\tby mx.example (Postfix)\n"):
                try:
                    if self.config.lookup(table, text).strip():
                        return True
                except Unreadable:
                    return True
        return False

    # -- what stands around it --------------------------------------------------------------------

    def prepended(self, service: Service) -> Iterator[Finding]:
        """PREPEND actions that put a field about the client where nothing removes it."""
        for name in RESTRICTIONS:
            value = self.config.get(name, service)
            for field in sorted(self._prepends(value)):
                kept = not any(
                    fnmatchcase(field.lower(), g.lower()) for g in self.settings.submission.remove
                )
                own = field.lower() == "received"
                # The sweep of mode milter takes every Received with it.
                if own and self.settings.submission.own_received == "milter":
                    continue
                if kept or own:
                    yield Finding(
                        "prepend", _where(service, name),
                        f"a PREPEND action adds {field} to submitted mail, and nothing removes it",
                        f'gatepost.toml: [submission] remove = [..., "{field}"], or no PREPEND '
                        f"in {name} of {service.name}",
                    )  # fmt: skip

    def _prepends(self, value: str) -> set[str]:
        found = set(re.findall(r"\bPREPEND\s+([!-9;-~]+):", value, re.I))
        for path in re.findall(r"\b[a-z]+:(/[^\s,{}]+)", value):
            try:
                text = Path(path).read_text(errors="replace")
            except OSError:
                continue
            found |= set(re.findall(r"^[^#\n].*\bPREPEND\s+([!-9;-~]+):", text, re.I | re.M))
        return found

    def _mentions(self, table: str, word: str) -> bool:
        for path in re.findall(r"\b[a-z]+:(/[^\s,{}]+)", table):
            try:
                if word in Path(path).read_text(errors="replace"):
                    return True
            except OSError:
                continue
        return word in table

    def policy(self, listeners: tuple[Service, ...]) -> Iterator[Finding]:
        """The policy service must be asked before unknown users are refused."""
        listen = self.settings.policy.listen
        sockets = [listen] if isinstance(listen, str) else list(listen)
        ours = [SocketAddress.parse(s).postfix() for s in sockets]
        ours += [o.replace("127.0.0.1", "localhost") for o in ours]
        for service in listeners or (None,):
            seen = False
            for name in RESTRICTIONS[:5]:
                # Braces group a server with its settings; the restriction's name stands before.
                value = self.config.get(name, service)
                for word in re.findall(r"\{[^{}]*\}|[^\s,]+", value):
                    if any(o in word for o in ours):
                        if seen:
                            yield Finding(
                                "policy-order", _where(service, name),
                                "unknown users are refused before gatepost-policyd is asked: "
                                "traps without a mailbox go unseen",
                                f"{name} = check_policy_service {ours[0]}, ...",
                            )  # fmt: skip
                            break
                    elif word in ("reject_unlisted_recipient", "reject_unverified_recipient"):
                        seen = True

    def completion(self) -> Iterator[Finding]:
        """Nothing may be added to a stranger's header before the milter verifies it."""
        if domain := self.config.get("remote_header_rewrite_domain"):
            yield Finding("header-completion", "main.cf",
                          f"strangers' headers are completed with {domain} before gatepost "
                          "verifies them", "remote_header_rewrite_domain =")  # fmt: skip
        if self.config.get("always_add_missing_headers") == "yes":
            yield Finding("header-completion", "main.cf",
                          "missing headers are added to strangers' mail before gatepost verifies "
                          "it", "always_add_missing_headers = no")  # fmt: skip
        words = re.findall(r"[^\s,]+", self.config.get("local_header_rewrite_clients"))
        networks = self.config.get("mynetworks")
        if any(w.startswith("static:") for w in words) or (
            "permit_mynetworks" in words and re.search(r"(?:0\.0\.0\.0|\[?::\]?)/0", networks)
        ):
            yield Finding("header-completion", "main.cf",
                          "strangers' headers are rewritten before gatepost verifies them",
                          "local_header_rewrite_clients = permit_inet_interfaces")  # fmt: skip

    def socket_findings(self, listeners: list[Service]) -> Iterator[Finding]:
        """Can Postfix reach the milter's socket?"""
        if self.socket.kind == "unix":
            queue = self.config.get("queue_directory")
            path = os.path.realpath(self.socket.path)
            for service in listeners:
                if self.own(service) is None or not self.config.chrooted(service):
                    continue
                if not path.startswith(os.path.realpath(queue) + "/"):
                    yield Finding(
                        "socket-chroot", _master(service),
                        f"smtpd runs in {queue} and cannot see {self.socket.path}",
                        f'gatepost.toml: [milter] socket = "unix:{queue}/gatepost/milter.sock" and '
                        "smtpd_milters = unix:gatepost/milter.sock",
                    )  # fmt: skip
            user = self.config.get("mail_owner") or "postfix"
            if problem := may_connect(Path(self.socket.path), user):
                yield Finding("socket-permission", self.socket.path, problem,
                              f'gatepost.toml: [milter] socket_group = "{user}", '
                              'socket_mode = "0660"')  # fmt: skip
                return
        if problem := reachable(self.socket):
            yield Finding("socket-unreachable", self.ours, problem,
                          "start gatepost-milter, or correct [milter] socket in gatepost.toml",
                          )  # fmt: skip


def _master(service: Service) -> str:
    return f"master.cf, {service.name} {service.type}"


def _where(service: Service | None, name: str) -> str:
    if service is not None and name in service.overrides:
        return _master(service)
    return "main.cf"
