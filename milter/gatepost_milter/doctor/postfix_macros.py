"""Is gatepost told what it needs to know of a session, and nothing that is not so?"""

from collections.abc import Iterator

from gatepost_milter.doctor import postfix_lines
from gatepost_milter.doctor.finding import Finding, Live, place
from gatepost_milter.doctor.postfix_config import Service

CONNECT = ("j", "{daemon_name}", "v")
RCPT = ("{rcpt_host}", "{rcpt_mailer}")
END = ("milter_end_of_data_macros", "milter_end_of_header_macros", "milter_data_macros")
# With a default of these, strangers' mail would be somebody's (login), or have a foreign queue id.
NOT_BY_DEFAULT = ("auth_authen", "daemon_name", "i", "j", "v", "rcpt_mailer", "rcpt_host")


def check(live: Live, service: Service) -> Iterator[Finding]:
    """Every finding about the macros of one listener."""
    yield from _listed(live, service, "milter_mail_macros", ("{auth_authen}",), "mail-macros",
                       "who logged in")  # fmt: skip
    yield from _listed(live, service, "milter_rcpt_macros", RCPT, "rcpt-macros",
                       "which recipients Postfix refuses")  # fmt: skip
    yield from _listed(live, service, "milter_connect_macros", CONNECT, "connect-macros",
                       "who and which listener it talks to")  # fmt: skip
    yield from queue_id(live, service)
    yield from _defaults(live, service)


def _words(live: Live, name: str, service: Service) -> list[str]:
    return live.config.raw(name, service).replace(",", " ").split()


def _listed(
    live: Live, service: Service, name: str, wanted: tuple[str, ...], code: str, what: str
) -> Iterator[Finding]:
    have = _words(live, name, service)
    if missing := [m for m in wanted if m not in have and f"{{{m}}}" not in have]:
        yield live.mend(
            code, place(service, name), f"the milter is not told {what}: {' '.join(missing)}",
            live.config.set(name, " ".join([*have, *missing]), live.where_set(service, name)),
        )  # fmt: skip


def queue_id(live: Live, service: Service) -> Iterator[Finding]:
    """Postfix has a queue id from DATA on, so one of the last three lists must have it."""
    # A release that does not know a list has it built in.
    lists = [_words(live, name, service) for name in END if live.config.knows(name)]
    if len(lists) == len(END) and not any({"i", "{i}"} & set(words) for words in lists):
        name = END[0]
        yield live.mend(
            "end-macros", place(service, name),
            "the milter is not told the queue id (i): submissions get 451, and no line of the log "
            "can be joined with what gatepost records",
            live.config.set(name, " ".join(["i", *lists[0]]), live.where_set(service, name)),
        )  # fmt: skip


def _defaults(live: Live, service: Service) -> Iterator[Finding]:
    """milter_macro_defaults (Postfix 3.1) gives a value to a macro that has none."""
    name = "milter_macro_defaults"
    words = [w.text for w in postfix_lines.words(live.config.raw(name, service))]
    false = [w for w in words if _macro(w) in NOT_BY_DEFAULT]
    if false:
        yield live.mend(
            "macro-defaults", place(service, name),
            f"{', '.join(false)}: the milter is told this of every client, strangers too",
            live.config.set(name, " ".join(w for w in words if w not in false),
                            live.where_set(service, name)),
        )  # fmt: skip


def _macro(word: str) -> str:
    """The name in `name=value`, `{name}=value` or `{ name = value }`."""
    inner = word[1:-1] if word.startswith("{") and word.endswith("}") else word
    return inner.partition("=")[0].strip().strip("{}").strip()
