"""Postfix lookup tables, as far as their text can be read or they can be tested with postmap."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from gatepost_milter.doctor import postfix_lines
from gatepost_milter.doctor.finding import Finding, Live, place
from gatepost_milter.doctor.postfix_config import Service, Unreadable
from gatepost_milter.doctor.postfix_own_received import PROBE

# Table types with a text that can be read: the named file, or the source of an indexed one.
READABLE = ("regexp", "pcre", "cidr", "texthash", "hash", "btree", "lmdb", "cdb", "dbm", "sdbm",
            "inline", "static", "pipemap", "unionmap", "randmap")  # fmt: skip
# TEXTS: each row of the text is a key and a value. PLAIN_TEXTS are used as text, not indexed.
PLAIN_TEXTS = ("cidr", "texthash")
TEXTS = (*PLAIN_TEXTS, "hash", "btree", "lmdb", "cdb", "dbm", "sdbm")
_TABLE = re.compile(r"\b([a-z0-9_-]+):(/[^\s,{}]+)")
_PREPEND = re.compile(r"\bPREPEND\s+([!-9;-~]+):", re.I)
ONLY_LOGS = ("DUNNO", "INFO", "OK", "WARN")  # header_checks(5): these change nothing


def header_checks(live: Live) -> Iterator[Finding]:
    """Findings on header_checks that act on Received, left over from another way of hiding the
    client."""
    # The token's own table is tested in `postfix_own_received`.
    token = live.settings.submission.own_received == "mta" and live.settings.submission.mta_token
    own = {
        live.config.get("cleanup_service_name", s)
        for s in live.config.submissions(live.settings.submission.daemon_names)
        if token
    }
    # By command, not by name: a transport may have any name (`slow`, `smtp-amavis`, `gmail`).
    clients = tuple(s.name for s in live.config.services if s.command in ("smtp", "lmtp"))
    cleanups = tuple(s.name for s in live.config.services if s.command == "cleanup")
    for name, services in (
        ("milter_header_checks", cleanups),
        ("header_checks", tuple(c for c in cleanups if c == "cleanup" or c not in own)),
        ("smtp_header_checks", clients),
        ("lmtp_header_checks", clients),
    ):
        for called in services:
            service = live.config.service(called)
            for table in _tables(live, name, service):
                if touches_received(live, table):
                    yield _left_over(live, name, service, table)


def _tables(live: Live, name: str, service: Service | None) -> list[str]:
    """The tables of a list; one that is written there itself, in braces, is one of them."""
    return [word.text for word in postfix_lines.words(live.config.get(name, service))]


def _left_over(live: Live, name: str, service: Service | None, table: str) -> Finding:
    what = (
        "our own hop stays, a client's is deleted"
        if name == "milter_header_checks"
        else "traces that others wrote are changed, and with them how loops are found"
    )
    problem = f"{name}: {table} acts on Received: {what}"
    where = place(service, name)
    code = "milter-header-checks" if name == "milter_header_checks" else "header-checks"
    match = _TABLE.match(table)
    lines = _rules(match.group(2)) if match else []
    if match and lines and len(lines) < _count(match.group(2)):
        # The other rules of the table stay.
        drop = ";".join(f"{n}d" for n in lines)
        return Finding(code, where, problem, f"sed -i '{drop}' {match.group(2)}")
    rest = [w for w in _tables(live, name, service) if w != table]
    target = live.where_set(service, name) if service is not None else None
    return live.mend(code, where, problem,
                     live.config.set(name, ", ".join(rest), target))  # fmt: skip


def _text(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _rules(path: str) -> list[int]:
    """The numbers (from 1) of the lines of a table that contain "received"."""
    return [
        n for n, line in enumerate(_text(path), start=1)
        if not line.lstrip().startswith("#") and "received" in line.lower()
    ]  # fmt: skip


def _count(path: str) -> int:
    return sum(bool(line.strip()) and not line.startswith("#") for line in _text(path))


def touches_received(live: Live, table: str) -> bool:
    """True where a table of header checks changes a Received field; also where it cannot be
    tested."""
    ours = "Received:\n\tby mx.example (Postfix)\n"
    host = live.config.get("myhostname") or "mx.example"
    name = live.config.get("mail_name") or "Postfix"
    other = "Received: from relay.example (relay.example [192.0.2.9])\n\tby other.example with " \
        "ESMTP id 1; Fri, 20 Nov 2026 10:00:00 +0000\n"  # fmt: skip
    for text in (PROBE.format(name=name, host=host), ours, other):
        try:
            # postmap answers with the key, a tab, and the action.
            done = live.config.lookup(table, text).strip().rpartition("\t")[2].split()
            if done and done[0].upper() not in ONLY_LOGS:
                return True
        except Unreadable:
            return True
    return False


def _values(live: Live, value: str, service: Service | None, depth: int = 0) -> Iterator[str]:
    """A restriction list, and the values of all restriction classes that it reaches."""
    yield value
    classes = [w.text for w in postfix_lines.words(live.config.get("smtpd_restriction_classes"))]
    for word in postfix_lines.words(value):
        if word.text in classes and depth < 8:
            yield from _values(live, live.config.get(word.text, service), service, depth + 1)


def _prepends(text: str) -> set[str]:
    found = set(_PREPEND.findall(text))
    for _, path in _TABLE.findall(text):
        for line in _text(path):
            if not line.startswith("#"):
                found |= set(_PREPEND.findall(line))
    return found


def prepends(live: Live, name: str, service: Service) -> set[str]:
    """The fields that PREPEND actions of a restriction list add, as far as tables can be read."""
    found: set[str] = set()
    for value in _values(live, live.config.get(name, service), service):
        found |= _prepends(value)
    return found


def without_prepend(live: Live, name: str, service: Service) -> str:
    """A restriction list of a listener without the tables that have a PREPEND action."""
    kept: list[str] = []
    for word in postfix_lines.words(live.config.get(name, service)):
        if any(_prepends(v) for v in _values(live, word.text, service)):
            if kept and kept[-1].lower().startswith("check_"):
                kept.pop()
            continue
        kept.append(word.text)
    return ", ".join(kept)


def every_row(table: str, right: Callable[[str], bool]) -> bool:
    """True where the table's text can be read and each row has a `right` result."""
    lines = [line.strip() for _, path in _TABLE.findall(table) for line in _text(path)]
    rows = [line for line in lines if line and not line.startswith("#")]
    return bool(rows) and all(right(" ".join(row.split()[1:])) for row in rows)


def unread(live: Live) -> Iterator[str]:
    """Tables in restriction lists whose results cannot be read, each in a few words."""
    from gatepost_milter.doctor.postfix_around import RESTRICTIONS

    seen: set[str] = set()
    for service in live.config.smtpd():
        for name in RESTRICTIONS:
            for value in _values(live, live.config.get(name, service), service):
                for kind, path in re.findall(r"\b([a-z0-9_-]+):([^\s,{}]+)", value):
                    table = f"{kind}:{path}"
                    if table in seen or kind in ("inet", "unix", "local", "smtp", "lmtp"):
                        continue
                    seen.add(table)
                    if kind not in READABLE or (path.startswith("/") and not _readable(path)):
                        yield f"what {table} answers in {name}"


def _readable(path: str) -> bool:
    return Path(path).is_file()
