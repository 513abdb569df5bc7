"""What is wrong with a Postfix that gatepost sits behind. Each finding has the line to change.

`check(config, settings)` answers with findings in the order in which mail meets the settings;
none means right. A right Postfix draws no finding, a wrong one draws at least the one that names
its fault. Only `socket_findings` looks at the file system and the network.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from gatepost_milter.doctor import postfix_around, postfix_own_received
from gatepost_milter.doctor.finding import Finding, Live, master, place
from gatepost_milter.doctor.postfix_config import Item, PostfixConfig, Service, items
from gatepost_milter.doctor.sockets import may_connect, reachable
from gatepost_policy.config.settings import Settings
from gatepost_policy.system.socket_address import SocketAddress

SAFE = ("tempfail", "reject", "shutdown")  # shutdown: 3.11, hangs up with a 421


def check(config: PostfixConfig, settings: Settings) -> tuple[Finding, ...]:
    """Every finding. Never raises for a configuration that postconf could read."""
    return tuple(Checker(config, settings).findings())


class Checker:
    """One configuration under one gatepost.toml."""

    def __init__(self, config: PostfixConfig, settings: Settings) -> None:
        self.config, self.settings = config, settings
        self.live = Live(config, settings)
        self.names = settings.submission.daemon_names
        self.socket = SocketAddress.parse(settings.milter.socket)
        self.ours = self.socket.postfix()

    def findings(self) -> Iterator[Finding]:
        submissions = self.config.submissions(self.names)
        proxy = self.settings.submission.own_received == "proxy"
        listeners = list(self.config.inbound(self.names))
        yield from self.presence(listeners, submissions)
        for service in submissions:
            entry = postfix_own_received.second_hop(self.live, service) if proxy else service
            if entry is None:
                yield Finding(
                    "proxy-missing", master(service),
                    "submission.own_received is proxy, and this listener has no second hop",
                    "  -o smtpd_proxy_filter=unix:private/hop2in",
                )  # fmt: skip
                continue
            if proxy:
                yield from postfix_own_received.proxy(self.live, service)
            yield from self.submission(entry, service)
            listeners.append(entry)
        for service in listeners:
            yield from self.chain(service)
            yield from self.login_port(service)
        yield from postfix_around.policy(self.live, self.config.inbound(self.names))
        yield from postfix_around.completion(self.live)
        yield from self.socket_findings(listeners)

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
        return self.socket.host in (host, "0.0.0.0", "::")

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
        where, mode = master(service), self.settings.submission.own_received
        wanted = (
            self.settings.submission.proxy_daemon_name
            if mode == "proxy"
            else (self.names[0] if self.names else "ORIGINATING")
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
                yield Finding("no-milters", master(one), "milters are switched off here",
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
            if postfix_around.mentions(table, "DISABLE"):
                yield Finding("milter-maps", where, f"{table} switches milters off for some",
                              "  -o smtpd_milter_maps=")  # fmt: skip
        yield from postfix_own_received.own_hop(self.live, outer if mode != "proxy" else service)
        yield from postfix_around.prepended(self.live, outer)

    def login_port(self, service: Service) -> Iterator[Finding]:
        """A port for strangers where users may log in as well lets their mail out unscrubbed."""
        item = self.own(service)
        if (
            item is None
            or self.config.is_submission(service, self.names)
            or service.type == "unix"
            or self.config.get("smtpd_sasl_auth_enable", service) != "yes"
        ):
            return
        action = item.settings.get("default_action") or self.config.get(
            "milter_default_action", service
        )
        if action not in SAFE:
            yield Finding(
                "login-port", place(service, "smtpd_sasl_auth_enable"),
                f"users can log in on {service.name} as well, and while gatepost is down their "
                f"mail leaves as it is (default action {action!r})",
                "smtpd_sasl_auth_enable = no in main.cf, and yes under submission only",
            )  # fmt: skip

    def chain(self, service: Service) -> Iterator[Finding]:
        """Order and protocol of the milters of one listener."""
        milters = self.milters(service)
        mine = next((n for n, i in enumerate(milters) if self.is_ours(i)), None)
        if mine is None:
            return
        where = place(service, "smtpd_milters")
        if mine:
            yield Finding(
                "chain-order", where,
                f"{milters[0].target} comes before gatepost: a signer would sign what gatepost "
                "then changes",
                "smtpd_milters = " + ", ".join(
                    [self.ours, *(i.target for n, i in enumerate(milters) if n != mine)]
                ),
            )  # fmt: skip
        protocol = milters[mine].settings.get("protocol") or self.config.get(
            "milter_protocol", service
        )
        if (match := re.match(r"\d+", protocol)) and int(match.group()) < 6:
            yield Finding(
                "leading-space", place(service, "milter_protocol"),
                f"milter protocol {protocol} has no leading space in header values: DKIM c=simple "
                "fails and fields cannot be replaced",
                "milter_protocol = 6",
            )  # fmt: skip
        if "{auth_authen}" not in self.config.raw("milter_mail_macros", service):
            macros = self.config.get("milter_mail_macros", service)
            yield Finding("mail-macros", place(service, "milter_mail_macros"),
                          "the milter is not told who logged in",
                          f"milter_mail_macros = {macros} {{auth_authen}}")  # fmt: skip
        connect = self.config.raw("milter_connect_macros", service).split()
        for macro in ("j", "{daemon_name}", "v"):
            if macro not in connect:
                yield Finding("connect-macros", place(service, "milter_connect_macros"),
                              f"the milter is not told macro {macro}",
                              "milter_connect_macros = j {daemon_name} {daemon_addr} v _",
                              )  # fmt: skip
        if checks := self.config.get("milter_header_checks"):
            if postfix_around.touches_received(self.live, checks):
                yield Finding(
                    "milter-header-checks", "main.cf",
                    f"{checks} acts on Received: our own hop stays, a client's is deleted",
                    "milter_header_checks =",
                )  # fmt: skip

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
                        "socket-chroot", master(service),
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
