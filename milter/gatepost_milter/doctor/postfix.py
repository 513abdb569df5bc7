"""What is wrong with a Postfix that uses gatepost. Each finding has the line that corrects it.

`check(config, settings)` returns findings in the order in which mail meets the settings; no finding
means that no known fault was found (`unchecked` names what could not be checked). Every listener
is checked by itself; a fault of main.cf is one finding, however many listeners it affects.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from gatepost_milter.doctor import (
    postfix_around,
    postfix_lines,
    postfix_macros,
    postfix_networks,
    postfix_own_received,
    postfix_policy,
    postfix_reached,
    postfix_tables,
)
from gatepost_milter.doctor.finding import Finding, Live, master, place
from gatepost_milter.doctor.postfix_config import Item, PostfixConfig, Service, items
from gatepost_milter.doctor.sockets import may_connect, reachable
from gatepost_policy.config.settings import Settings
from gatepost_policy.system.socket_address import SocketAddress

SAFE = ("tempfail", "reject", "shutdown")  # shutdown: 3.11, hangs up with a 421


def check(config: PostfixConfig, settings: Settings) -> tuple[Finding, ...]:
    """Every finding. Never raises for a configuration that postconf could read."""
    live = Live(config, settings)
    found: dict[tuple[str, str], Finding] = {}
    for finding in Checker(config, settings).findings():
        key = finding.code, finding.problem if finding.edits else finding.change
        found[key] = live.joined(found[key], finding) if key in found else finding
    return tuple(found.values())


def unchecked(config: PostfixConfig, settings: Settings) -> tuple[str, ...]:
    """What this run could not check, each in a few words."""
    elsewhere = (
        ("whether another program serves ports 587 and 465 of this host",)
        if "-c" in config.called
        else ()
    )
    others = config.get("multi_instance_directories")
    return (*postfix_tables.unread(Live(config, settings)),
            *postfix_networks.unread(config), *elsewhere,
            *(f"the Postfix instance in {d} (-c {d})" for d in others.replace(",", " ").split()),
            )  # fmt: skip


class Checker:
    """Checks one Postfix configuration against the settings of gatepost.toml."""

    def __init__(self, config: PostfixConfig, settings: Settings) -> None:
        self.config, self.settings = config, settings
        self.live = Live(config, settings)
        self.names = settings.submission.daemon_names
        self.mode = settings.submission.own_received
        self.socket = SocketAddress.parse(settings.milter.socket)
        self.queue = config.get("queue_directory")
        self.ours = postfix_lines.spelling(self.socket, self.queue)

    def findings(self) -> Iterator[Finding]:
        """Everything, in the order in which mail meets it."""
        yield from self.settings_findings()
        yield from postfix_policy.answers(self.live, self.config.inbound(self.names))
        yield from postfix_tables.header_checks(self.live)
        yield from postfix_around.completion(self.live)
        yield from postfix_networks.check(self.live)
        yield from postfix_networks.strangers(self.live)
        yield from postfix_networks.disguised(self.live)
        yield from postfix_around.foreign_submission(self.live, self.config.submissions(self.names))
        yield from self.socket_findings()

    def settings_findings(self) -> Iterator[Finding]:
        """Findings from main.cf and master.cf alone; of other files only lookup tables are read,
        and no socket is tried."""
        inbound = self.config.inbound(self.names)
        listeners = list(inbound)
        for service in inbound:
            yield from self.inbound(service)
        for service in self.config.submissions(self.names):
            if self.mode == "proxy":
                entry = postfix_own_received.second_hop(self.live, service)
                if entry is None:
                    yield self.live.mend(
                        "proxy-missing", master(service),
                        "submission.own_received is proxy, and this listener has no second hop",
                        self.config.set("smtpd_proxy_filter", "unix:private/hop2in", service),
                    )  # fmt: skip
                    continue
                yield from postfix_own_received.proxy(self.live, service)
            else:
                entry = service
                yield from postfix_around.proxy_filter(self.live, service)
            yield from self.submission(entry, service)
            listeners.append(entry)
        for service in listeners:
            yield from postfix_around.options(self, service)
            yield from self.chain(service)
            yield from self.login_port(service)
        for service in self.config.reinjections(self.names):
            yield from self.reinjection(service)
        yield from self.local()
        yield from postfix_policy.check(self.live, inbound)
        yield from postfix_reached.check(self.live, inbound)
        yield from postfix_around.soft(self.live, inbound)

    def is_ours(self, item: str) -> bool:
        """True where an item of smtpd_milters is our socket."""
        return postfix_lines.same_socket(item, self.socket, self.queue)

    def milters(self, service: Service | None, name: str = "smtpd_milters") -> tuple[Item, ...]:
        """The milters of a service (None: of main.cf), in order."""
        return items(self.config.get(name, service))

    def own(self, service: Service) -> Item | None:
        """Our item among the milters of a listener; None where we are not there."""
        return next((i for i in self.milters(service) if self.is_ours(i.target)), None)

    def with_ours(self, service: Service | None, action: str, name: str = "smtpd_milters") -> str:
        """The value of `name` with our milter in it, first and with this default_action."""
        raw, full = self.config.raw(name, service), self.config.get(name, service)
        # A reference such as $smtpd_milters stays one, unless we are behind it.
        inside = any(self.is_ours(w.text) for w in postfix_lines.words(full))
        value = full if inside else raw
        return postfix_lines.milters(value, postfix_lines.milter(self.ours, action), self.is_ours)

    def action(self, item: Item, service: Service | None) -> str:
        """The default_action in force on this listener while our milter does not answer."""
        own = item.settings.get("default_action")
        return own or self.config.get("milter_default_action", service)

    def switched_off(self, service: Service) -> Iterator[Finding]:
        """receive_override_options must not hold no_milters."""
        name = "receive_override_options"
        value = self.config.get(name, service)
        if "no_milters" in value:
            rest = ",".join(w.text for w in postfix_lines.words(value) if w.text != "no_milters")
            yield self.live.mend(
                "no-milters", place(service, name), "milters are switched off here",
                self.config.set(name, rest, self.live.where_set(service, name)),
            )  # fmt: skip

    def inbound(self, service: Service) -> Iterator[Finding]:
        """What a listener for strangers needs: gatepost must see its mail."""
        name = "smtpd_milters"
        if self.own(service) is None:
            local = any(self.is_ours(i.target) for i in self.milters(None, "non_smtpd_milters"))
            why = (
                "non_smtpd_milters sees only mail from sendmail(1)"
                if local and name not in service.overrides
                else "it does not see what comes in here"
            )
            target = self.live.where_set(service, name)
            edits = self.config.set(name, self.with_ours(service, "accept"), target)
            yield self.live.mend("milter-missing", place(service, name),
                                 f"gatepost is not in smtpd_milters: {why}", edits)  # fmt: skip
        yield from self.inbound_action(service)
        plain = self.with_ours(service, self.wanted_action(service))
        yield from postfix_around.patience(self.live, service, self.own(service), plain)
        yield from self.switched_off(service)
        # Webmail and printers come in here as well.
        yield from self.milter_maps(service)
        yield from postfix_around.proxy_filter(self.live, service)
        yield from postfix_around.stranger_name(self.live, service)

    def wanted_action(self, service: Service) -> str:
        """The default_action that a listener should have: what happens while gatepost is down."""
        ours = self.config.is_submission(service, self.names) or service.type == "unix"
        logins = self.config.yes("smtpd_sasl_auth_enable", service)
        return "tempfail" if ours or logins else "accept"

    def inbound_action(self, service: Service) -> Iterator[Finding]:
        """While gatepost is down, inbound mail must be accepted; where users can log in on the same
        port, it may also be refused for now (tempfail)."""
        item = self.own(service)
        if item is None:
            return
        logins = self.config.yes("smtpd_sasl_auth_enable", service)
        action = self.action(item, service)
        if action == "accept" or (logins and action == "tempfail"):
            return
        if self.is_ours(self.milters(service)[0].target) is False:
            return  # `chain` puts it first, with the right action
        name, wanted = "smtpd_milters", self.wanted_action(service)
        effect = {
            "tempfail": "is refused for now", "reject": "is refused for good",
            "shutdown": "is turned away at once", "quarantine": "is held until you release it",
        }  # fmt: skip
        yield self.live.mend(
            "inbound-action", place(service, name),
            f"while gatepost is down, all mail {effect.get(action, 'has no way in')} (default "
            f"action {action!r})",
            self.config.set(name, self.with_ours(service, wanted),
                            self.live.where_set(service, name)),
        )  # fmt: skip

    def milter_maps(self, service: Service) -> Iterator[Finding]:
        """Clients for whom a table names other milters, or none."""
        name = "smtpd_milter_maps"
        table = self.config.get(name, service)
        if table and not postfix_tables.every_row(
            table, lambda row: any(self.is_ours(i.target) for i in items(row))
        ):
            yield self.live.mend(
                "milter-maps", master(service),
                f"{name} = {table} may leave gatepost out for some clients",
                self.config.set(name, "", service),
            )  # fmt: skip

    def submission(self, service: Service, outer: Service) -> Iterator[Finding]:
        """What a submission listener needs. `service`: the one that asks the milter (the second hop
        with own_received = "proxy"); `outer`: the one that users connect to."""
        where = master(service)
        wanted = (
            self.settings.submission.proxy_daemon_name
            if self.mode == "proxy"
            else postfix_lines.listener_name(self.settings)
        )
        name = self.config.get("milter_macro_daemon_name", service)
        if name != wanted and (self.mode == "proxy" or name not in self.names):
            yield self.live.mend(
                "daemon-name", where,
                f"the milter cannot tell submissions from inbound mail: the listener calls itself "
                f"{name!r}",
                self.config.set("milter_macro_daemon_name", wanted, service),
            )  # fmt: skip
        if self.mode != "mta":
            yield from postfix_around.macro_version(self.live, service)
        for one in {service.key: service, outer.key: outer}.values():
            yield from self.switched_off(one)
        item = self.own(service)
        chain = self.config.set("smtpd_milters", self.with_ours(service, "tempfail"), service)
        if item is None:
            yield self.live.mend("submission-milter", where,
                                 "gatepost does not see this listener's mail", chain)  # fmt: skip
        elif self.action(item, service) not in SAFE:
            yield self.live.mend(
                "default-action", where,
                "when gatepost is down, mail leaves as it is (default action "
                f"{self.action(item, service)!r})",
                chain,
            )  # fmt: skip
        yield from self.milter_maps(service)
        yield from postfix_own_received.own_hop(
            self.live, outer if self.mode != "proxy" else service
        )
        yield from postfix_around.prepended(self.live, outer)

    def login_port(self, service: Service) -> Iterator[Finding]:
        """A port for strangers where users may log in as well lets their mail out unscrubbed."""
        item, name = self.own(service), "smtpd_sasl_auth_enable"
        if (
            item is None
            or self.config.is_submission(service, self.names)
            or service.type == "unix"
            or not self.config.yes(name, service)
            or self.action(item, service) in SAFE
        ):
            return
        if name in service.overrides:
            edits = self.config.set(name, "no", service)
        else:
            # Off in main.cf, and on for each submission listener that had it from main.cf.
            edits = self.config.set(name, "no")
            for other in self.config.submissions(self.names):
                if name not in other.overrides:
                    edits += self.config.set(name, "yes", other)
        yield self.live.mend(
            "login-port", place(service, name),
            "users can log in on a port for strangers as well, and while gatepost is down their "
            f"mail leaves as it is (default action {self.action(item, service)!r})",
            edits,
        )  # fmt: skip

    def chain(self, service: Service) -> Iterator[Finding]:
        """Order and protocol of the milters of one listener."""
        milters = self.milters(service)
        mine = next((n for n, i in enumerate(milters) if self.is_ours(i.target)), None)
        if mine is None:
            return
        if sum(self.is_ours(i.target) for i in milters) > 1:
            once = self.with_ours(service, self.wanted_action(service))
            yield postfix_around.twice(self.live, service, once)
        elif mine:
            name = "smtpd_milters"
            words = postfix_lines.words(self.config.get(name, service))
            wanted = self.wanted_action(service)
            right = self.action(milters[mine], service) == wanted
            ours = words[mine].text if right else postfix_lines.milter(self.ours, wanted)
            yield self.live.mend(
                "chain-order", place(service, name),
                f"{milters[0].target} comes before gatepost: a signer would sign what gatepost "
                "then changes",
                self.config.set(
                    name, postfix_lines.milters(self.config.get(name, service), ours,
                                                self.is_ours),
                    self.live.where_set(service, name),
                ),
            )  # fmt: skip
        protocol = milters[mine].settings.get("protocol") or self.config.get(
            "milter_protocol", service
        )
        if (match := re.match(r"\d+", protocol)) and int(match.group()) < 6:
            name = "milter_protocol"
            edits = self.config.set(name, "6", self.live.where_set(service, name))
            if "protocol" in milters[mine].settings:
                action = milters[mine].settings.get("default_action", "accept")
                name = "smtpd_milters"
                edits = self.config.set(name, self.with_ours(service, action),
                                        self.live.where_set(service, name))  # fmt: skip
            yield self.live.mend(
                "leading-space", place(service, name),
                f"milter protocol {protocol} has no leading space in header values: DKIM c=simple "
                "fails and fields cannot be replaced",
                edits,
            )  # fmt: skip
        yield from postfix_macros.check(self.live, service)

    def reinjection(self, service: Service) -> Iterator[Finding]:
        """Mail that a content filter hands back must not pass gatepost as if it had just come."""
        if (
            self.own(service) is None
            or "no_milters" in self.config.get("receive_override_options", service)
            or self.config.get("milter_macro_daemon_name", service)
            in postfix_lines.second_pass_names(self.settings)
        ):
            return
        value = postfix_lines.without(self.config.get("smtpd_milters", service), self.is_ours)
        yield self.live.mend(
            "second-pass", master(service),
            "a content filter hands mail back here, and gatepost takes it for new mail from the "
            "filter's address",
            self.config.set("smtpd_milters", value, service),
        )  # fmt: skip

    def local(self) -> Iterator[Finding]:
        """sendmail(1) mail, which cron and web programs send, goes by non_smtpd_milters."""
        if self.settings.submission.local != "scrub":
            return
        name, pickup = "non_smtpd_milters", self.config.service("pickup")
        used = self.config.get("cleanup_service_name", pickup) or "cleanup"
        cleanup = self.config.service(used) or self.config.service("cleanup")
        milters = self.milters(cleanup, name)
        target = self.live.where_set(cleanup, name) if cleanup is not None else None
        once = self.config.set(name, self.with_ours(cleanup, "accept", name), target)
        mine = next((n for n, i in enumerate(milters) if self.is_ours(i.target)), None)
        if mine is None:
            yield self.live.mend(
                "non-smtpd-milters", place(cleanup, name),
                "mail from sendmail(1) leaves as programs wrote it, and submission.local is scrub",
                once,
            )  # fmt: skip
            return
        if mine:
            yield self.live.mend(
                "chain-order", place(cleanup, name),
                f"{milters[0].target} comes before gatepost in {name}: it signs what then changes",
                once,
            )  # fmt: skip
        action = self.action(milters[mine], cleanup)
        if not mine and action not in ("accept", "tempfail"):
            yield self.live.mend(
                "local-action", place(cleanup, name),
                f"while gatepost is down, mail from sendmail(1) is lost or held ({action!r})",
                once,
            )  # fmt: skip
        if pickup is not None:
            yield from self.switched_off(pickup)

    def socket_findings(self) -> Iterator[Finding]:
        """Can Postfix reach the milter's socket?"""
        if self.socket.kind == "unix":
            path = os.path.realpath(self.socket.path)
            for service in self.config.smtpd():
                if self.own(service) is None or not self.config.chrooted(service):
                    continue
                if not path.startswith(os.path.realpath(self.queue) + "/"):
                    yield Finding(
                        "socket-chroot", "master.cf",
                        f"smtpd runs in {self.queue} and cannot see {self.socket.path}",
                        f'gatepost.toml: [milter] socket = "unix:{self.queue}/gatepost/'
                        'milter.sock"; then milterctl setup postfix --apply',
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
