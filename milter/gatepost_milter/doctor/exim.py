"""What is wrong with an Exim that works with gatepost-policyd. Each finding has the line to change.

Pure except for connection attempts to the policy service. It looks for what the files of conf/exim
do; a configuration that does the same with other words gets no finding.
"""

import pwd
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from gatepost_milter.doctor import (
    exim_added,
    exim_around,
    exim_asked,
    exim_order,
    exim_question,
)
from gatepost_milter.doctor.exim_config import EximConfig, Statement
from gatepost_milter.doctor.finding import Finding
from gatepost_milter.doctor.sockets import may_connect, reachable
from gatepost_policy.config.settings import Settings
from gatepost_policy.system.socket_address import SocketAddress

SHIPPED = "/run/gatepost/exim/policy.sock"  # conf/exim/gatepost-main.conf
SCRUB_FILE = "conf/exim/gatepost-acl.conf, gatepost_scrub"
# The remove_header for fields on no list: its value compares them with the client's names.
_WORDS = re.compile(r"\$\{?(?:[a-z0-9]+:)*sender_helo_name")
_SOCKET = re.compile(r"\$\{readsocket\{\s*((?:inet:|/)[^{},]+)")


def check(config: EximConfig, settings: Settings) -> tuple[Finding, ...]:
    """Every finding; an empty tuple means that no fault was found."""
    read = (*_sockets(config, settings), *_stages(config), *_scrub(config, settings),
            *exim_added.check(config), *exim_around.check(config, settings),
            *exim_question.check(config))  # fmt: skip
    # What the text says already, Exim need not say again: the text names the line.
    known = {finding.code for finding in read}
    asked = (f for f in exim_asked.check(config, settings) if f.code not in known)
    return (*read, *asked, *_reachable(settings))


def unchecked(config: EximConfig) -> tuple[str, ...]:
    """What this run could not check, each in a few words."""
    asked = exim_asked.asked(config)
    silent = () if asked else ("what Exim makes of the scrub (exim -bem says nothing)",)
    return (*silent, *exim_added.unread(config))


def _spelling(address: SocketAddress) -> str:
    """A socket as readsocket takes it."""
    return address.path if address.kind == "unix" else address.postfix()


def _sockets(config: EximConfig, settings: Settings) -> Iterator[Finding]:
    """Each readsocket that asks for a verdict must name a socket where gatepost-policyd listens."""
    ours = {_spelling(a) for a in settings.policy.listen}
    # Unix sockets first: over inet, Exim's DKIM results are not believed by default.
    wanted = min(ours, key=lambda spelling: (spelling.startswith("inet"), spelling))
    for target in dict.fromkeys(_SOCKET.findall(config.text)):
        plain = target.strip().replace("inet:localhost:", "inet:127.0.0.1:")
        asked = re.search(re.escape(target) + r"\s*\}\s*\{exim ", config.text)
        if asked and plain not in ours:
            yield Finding(
                "policy-socket", "exim configuration",
                f"readsocket asks {target}, and gatepost-policyd listens on {wanted}",
                f"GATEPOST_POLICY = {wanted}",
            )  # fmt: skip
        elif asked and not settings.policy.inet_verdicts and plain.startswith("inet"):
            yield Finding(
                "not-believed", "exim configuration",
                f"over {target} each DKIM result of Exim is recorded as not-believed: no domain "
                "is blamed or known as good",
                f"GATEPOST_POLICY = {_unix(settings)}",
            )  # fmt: skip
        elif asked and plain.startswith("/") and (problem := _user_problem(config, plain)):
            yield Finding("socket-user", plain, problem, "the directory of docs/exim.md")


def _user_problem(config: EximConfig, path: str) -> str | None:
    """Why Exim's user cannot connect. With GATEPOST_DOWN = OK, mail would pass without notice."""
    user = config.options.get("exim_user", "Debian-exim")  # not in the output if compiled in
    try:
        user = pwd.getpwuid(int(user)).pw_name if user.isdigit() else pwd.getpwnam(user).pw_name
    except KeyError:
        return None
    # Where no socket exists, `_reachable` has the finding.
    return may_connect(Path(path), user) if Path(path).is_socket() else None


def _unix(settings: Settings) -> str:
    """A unix socket of the policy service; where there is none, how to configure one."""
    for address in settings.policy.listen:
        if address.kind == "unix":
            return address.path
    listen = ", ".join(f'"{a}"' for a in (*settings.policy.listen, f"unix:{SHIPPED}"))
    return (
        f"{SHIPPED}, after gatepost.toml: [policy] listen = [{listen}], and the directory of "
        "docs/exim.md"
    )


def _stages(config: EximConfig) -> Iterator[Finding]:
    """The policy service is asked at RCPT, for each signature, and at DATA."""
    for stage, option, change in (
        ("rcpt", "acl_smtp_rcpt", "require acl = gatepost_rcpt"),
        ("dkim", "acl_smtp_dkim", "acl_smtp_dkim = gatepost_dkim"),
        ("data", "acl_smtp_data", "require acl = gatepost_data"),
    ):
        acl = config.options.get(option, "")
        roots = config.roots(option)
        if not roots:
            yield Finding(
                f"stage-{stage}", f"{option} = {acl}" if acl else f"{option} is not set",
                f"gatepost-policyd is not asked at this stage ({stage})", change,
            )  # fmt: skip
        for root in dict.fromkeys(roots):
            if not exim_order.asks(config.within(root), stage):
                yield Finding(
                    f"stage-{stage}", f"{option}, ACL {root}",
                    f"gatepost-policyd is not asked at this stage ({stage})",
                    change if option != "acl_smtp_dkim" else "warn acl = gatepost_dkim",
                )  # fmt: skip
    yield from exim_order.check(config)
    if config.options.get("dkim_verify_signers", "$dkim_signers") == "":
        yield Finding("dkim-off", "dkim_verify_signers", "no signature is verified",
                      "dkim_verify_signers = $dkim_signers")  # fmt: skip


def _removed(statements: tuple[Statement, ...], settings: Settings) -> tuple[str, ...]:
    """The entries of submission.remove that no remove_header covers."""
    # \N switches Exim's string expansion off; it is not part of the regular expression.
    lists = (v for s in statements for v in s.values("remove_header") if not _WORDS.search(v))
    text = " ".join(lists).replace(r"\N", "").replace("[!-9;-~]*", "*")
    names = {n.strip().lower() for n in re.split(r"[:\s]+", text)}
    starts = {w.lower() for w in re.findall(r"[A-Za-z][A-Za-z0-9*-]*-?(?=[|)])", text)}
    missing = []
    for glob in settings.submission.remove:
        low = glob.lower()
        covered = low in names or (
            low.endswith("*") and any(low[:-1] == s or low.startswith(s) for s in starts)
        )
        covered = covered or any(fnmatchcase(low.rstrip("*"), s + "*") for s in starts if s)
        if not covered:
            missing.append(glob)
    return tuple(missing)


def _scrub(config: EximConfig, settings: Settings) -> Iterator[Finding]:
    """Submitted mail must lose the client in our own Received, and the fields of
    submission.remove."""
    statements = config.reached("acl_smtp_data") + config.reached("acl_smtp_rcpt")
    missing = _removed(statements, settings)
    if missing:
        every = len(missing) == len(settings.submission.remove)
        yield Finding(
            "remove-header", "acl_smtp_data",
            "no remove_header: the fields of mail programs stay" if every
            else f"remove_header leaves {', '.join(missing[:8])}",
            f"warn acl = gatepost_scrub ({SCRUB_FILE})" if every
            else f"remove_header = ... : {' : '.join(missing)}",
        )  # fmt: skip
    if not missing and not any(
        _WORDS.search(v) for s in statements for v in s.values("remove_header")
    ):
        yield Finding(
            "unknown-fields", "acl_smtp_data",
            "a field that is on no list stays where it names the client or the login",
            f"install conf/exim again ({SCRUB_FILE})",
        )  # fmt: skip
    received = config.options.get("received_header_text", "")
    if not received or "$authenticated_id" not in received.replace("def:a", "$a"):
        yield Finding(
            "received-header", "received_header_text",
            "our own hop names the client of a submission",
            "received_header_text as in conf/exim/gatepost-main.conf",
        )  # fmt: skip
    else:
        for word, what in (("received_for", "the recipient"), ("sender_address", "the sender")):
            if word in received.replace("sender_address_", ""):
                yield Finding("received-header", "received_header_text",
                              f"our own hop names {what}", f"no ${word} there")  # fmt: skip
    controls = [v for s in statements for v in s.values("control")]
    if any(c.startswith("submission") for c in controls) and not any(
        "sender_retain" in c for c in controls
    ):
        yield Finding("sender-added", "control = submission",
                      "Exim adds a Sender with the login",
                      "control = submission/sender_retain")  # fmt: skip


def _reachable(settings: Settings) -> Iterator[Finding]:
    for address in settings.policy.listen:
        if problem := reachable(address):
            yield Finding("socket-unreachable", str(address), problem,
                          "start gatepost-policyd")  # fmt: skip
