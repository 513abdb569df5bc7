"""Notes on a Postfix: not faults, but an administrator should know them. Each is one line;
postconf cannot change them, and none makes `check` fail."""

from collections.abc import Iterator

from gatepost_milter.doctor import postfix_lines, postfix_policy
from gatepost_milter.doctor.postfix import Checker
from gatepost_milter.doctor.postfix_config import PostfixConfig
from gatepost_policy.config.settings import Settings

CERTIFICATES = ("permit_tls_clientcerts", "permit_tls_all_clientcerts")


def notes(config: PostfixConfig, settings: Settings) -> tuple[str, ...]:
    """All notes, without repeats."""
    checker = Checker(config, settings)
    found = (*_behind(checker), *_open_to_all(checker), *_certificates(checker))
    return tuple(dict.fromkeys(found))


def _behind(checker: Checker) -> Iterator[str]:
    """Milters that get inbound mail after gatepost: gatepost records mail that they refuse as
    accepted.

    It then counts as good mail of its sender, and may keep the sender from being listed for a
    trap hit.
    """
    where: dict[str, list[str]] = {}
    for service in checker.config.inbound(checker.names):
        milters = checker.milters(service)
        mine = next((n for n, i in enumerate(milters) if checker.is_ours(i.target)), None)
        if mine is None:
            continue
        for item in milters[mine + 1 :]:
            where.setdefault(item.target, []).append(service.name)
    for target, listeners in where.items():
        yield (
            f"the milter {target} stands behind gatepost ({', '.join(listeners)}): what it refuses "
            "for good looks delivered here, and speaks for its sender after a trap hit; let "
            "milterctl watch follow the log, or set a higher [sender] good_messages (now "
            f"{checker.settings.sender.good_messages})"
        )


def _open_to_all(checker: Checker) -> Iterator[str]:
    """Our sockets that Postfix uses over TCP: every local user can connect to them as well."""
    config, queue = checker.config, checker.queue.rstrip("/")
    found: dict[str, None] = {}
    for service in (*config.smtpd(), None):
        name = "non_smtpd_milters" if service is None else "smtpd_milters"
        for item in checker.milters(service, name):
            if checker.is_ours(item.target) and checker.socket.kind != "unix":
                found[f'[milter] socket = "unix:{queue}/gatepost/milter.sock"'] = None
        for stage in () if service is None else postfix_policy.STAGES:
            for server in postfix_lines.policy_servers(config.get(stage, service)):
                target, _ = postfix_lines.settings_of(server)
                if postfix_policy.is_ours(checker.live, server) and target.startswith("inet"):
                    found[f'[policy] listen = "unix:{queue}/gatepost/policy.sock"'] = None
    if found:
        yield (
            "Postfix asks gatepost over TCP on this machine, where every user and program can "
            "connect as well and say who hit a trap; unix sockets keep them out (docs/postfix.md, "
            f"Sockets): gatepost.toml: {'; '.join(found)}; then milterctl setup postfix --apply"
        )


def _certificates(checker: Checker) -> Iterator[str]:
    """Who may send to anywhere by a TLS certificate, on a listener for strangers: gatepost is told
    no login, so that nothing is scrubbed."""
    for service in checker.config.inbound(checker.names):
        for stage in ("smtpd_relay_restrictions", "smtpd_recipient_restrictions"):
            for word in postfix_lines.words(checker.config.get(stage, service)):
                if postfix_lines.keyword(word.text) in CERTIFICATES:
                    yield (
                        f"{service.name}: {word.text} in {stage} lets who has a certificate send "
                        "to anywhere without a login, and what leaves so is not scrubbed: right "
                        "for other servers; give users a submission listener, or their addresses "
                        "to [submission] networks"
                    )
