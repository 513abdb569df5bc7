"""Write docs/symptoms.md and docs/personal-data.md: what an operator looks up in a hurry.

Replies, reasons and their meanings are read from the code, the columns of the store from its
tables. What to do, and what a column tells of whom, stands here: a reason, a reply or a column
that is not named here ends the run, so neither page can fall behind. With --check nothing is
written; the exit code says whether what is there is up to date.
"""

import inspect
import re
import sys
from pathlib import Path

from gatepost_policy.mail import decision
from gatepost_policy.monitoring import maillog
from gatepost_policy.store import tables

ROOT = Path(__file__).resolve().parents[1]
SYMPTOMS = ROOT / "docs" / "symptoms.md"
PERSONAL = ROOT / "docs" / "personal-data.md"

# Each reply by its name in mail/decision.py: who hears it, and what to do.
REPLIES = {
    "REFUSED": 'Somebody else\'s mail: a trap, or a listed sender with `sender.action = "reject"`. '
    "Look the sender up: `milterctl report --sender WHO`.",
    "NO_SUCH_USER": "Said at RCPT for a trap, with `trap.action` or `trap.policy_answer` "
    '`"reject"`. If people do write there, it is no trap: `milterctl trap remove ADDRESS`.',
    "TRY_LATER": "A listed or repeat sender, or a trap, with an action of `tempfail`. "
    "`milterctl sender forgive WHO` ends a listing.",
    "NOT_CONFIGURED": "**Your own users cannot send.** gatepost cannot tell that Postfix's own "
    "`Received` will go. The log line before it says what is missing; `milterctl check postfix` "
    "prints the line that mends it; see [three ways](privacy.md#three-ways-to-lose-our-own-hop-submissionown_received).",
    "SCRUB_FAILED": "**One message of a user cannot be sent**: its header cannot be cleaned, and "
    "what cannot be cleaned does not leave. Let the user send it from another program; "
    "`milterctl replay FILE` on the saved message says which field it is.",
    "HEADER_TOO_LARGE": "The header is over `milter.max_header_bytes` or `max_header_fields`: always "
    'refused for submissions, for others with `milter.oversize = "reject"`.',
    "INTERNAL": "A fault of gatepost or of this machine: submissions wait, inbound mail goes by "
    "`milter.on_error`. The log has `event=` lines with the place; `milterctl check`.",
}

# Each reason: what to do.
REASONS = {
    "no-bad-signal": "Nothing. `shadow=` in the same line names rules that only watched.",
    "trap": "Nothing: the sender is listed for `sender.listing_first`. Innocent? "
    "`milterctl sender forgive WHO`.",
    "trap-mixed": "Nothing: real recipients got their mail. One of them may know how the trap came "
    "to be on the list.",
    "shared-client": "Nothing: the client is a provider with good mail, and is not listed. Only a "
    "signature could tell which of its customers it was.",
    "backscatter": "Nothing: the sender is a victim of the forgery, too.",
    "forwarder": "Nothing. If it goes on, `sender.excuses` counts the days.",
    "list": "Somebody subscribed the trap. Ask the list's owner to take it off.",
    "auto-reply": "Nothing: the trap's address was forged as a sender.",
    "answer": "Nothing: the trap's address was forged as a sender.",
    "own-host": "Look at the client: if it is one of yours, something on it mails a trap.",
    "not-verified": "Nothing. Many of them: look at the resolver, `milterctl check`.",
    "replayed": "Nothing: the client is listed, not the domain that signed.",
    "one-witness": "Nothing yet: a second trap hit decides.",
    "good-sender": "Nothing: known by good mail. `milterctl report --sender WHO` shows the share.",
    "never-list": "Nothing: `sender.never_list` or `sender.own_domains` names it. An own domain: "
    "look which account mails a trap.",
    "listed": "`milterctl sender show WHO` says why and until when; `milterctl sender forgive WHO` "
    'ends it. For all: `sender.action = "shadow"`.',
    "open-recipient": "Nothing: a listed sender may write to postmaster@ and abuse@.",
    "repeat-sender": "Look: `milterctl report --sender WHO`. By default the mail is only marked in "
    "the report.",
    "trusted-relay": "Nothing: `submission.trusted_relays` names the client. A stranger there means "
    "the key is too wide.",
    "unscanned": "The header is over a limit of `[milter]`. Many of them: raise the limit.",
    "too-large": "See 552 above.",
    "scrubbed": "Nothing: this is what a submission should say.",
    "relayed": "Right for lists and forwarders. For a user's own mail: put the domain of its "
    "signature into `sender.own_domains`.",
    "local": 'Only with `submission.local = "leave"`.',
    "own-user-trap": "**Look at once**: one of your accounts mails an address that nobody has. "
    "Change its password; the MTA's log has the login.",
    "unverified-mta": "See 451 4.3.5 above.",
    "scrub-impossible": "See 554 above.",
    "second-pass": "Nothing: judged and recorded when it first came.",
    "mta-refused": "Nothing: only in imported logs.",
    "internal-error": "See 451 4.3.0 above. Please report it, with the log's `event=` line.",
}

# Each key of a message's log line.
KEYS = {
    "at": "when the message was received, UTC",
    "id": "the MTA's queue id: the same as in its own log",
    "direction": "`inbound`, `submission` (your users), or `local` (sendmail(1) and `submission.networks`)",
    "family": "`ipv4`, `ipv6`, or `unix` and the like for what never came over the network",
    "client": "the address it came from (inbound only, as all that follows but action and reason)",
    "from": "the envelope sender (MAIL FROM)",
    "to": "the recipients, ten at most, then `+N`",
    "size": "octets of the message, where they are known",
    "dkim": "`result:domain` of each signature; `none`: looked, and there was none; `-`: nobody looked",
    "arc": "the ARC chain: `pass`, `fail`, `none`",
    "spf": "`result:domain` of MAIL FROM",
    "dmarc": "`result:domain` of the author",
    "traps": "how many of the recipients are traps",
    "action": "what the MTA was told: `accept`, `reject`, `tempfail`, `discard`",
    "reason": "why: the table below",
    "shadow": "reasons that would have decided otherwise, and only watch",
}

CLIENT, SENDER, RECIPIENT, DOMAIN, OPERATOR = (
    "address or name of a client", "sender", "recipient", "domain (a person's own, at times)",
    "a note of yours",
)  # fmt: skip
# table: {column: what it tells of a person}, and the key of [retention] that ends it.
COLUMNS: dict[str, tuple[dict[str, str], str]] = {
    "message": (
        {
            "session": "which messages came in one connection",
            "prefix": CLIENT,
            "address": CLIENT,
            "client_name": CLIENT,
            "helo": CLIENT,
            "sender": SENDER,
            "sender_key": SENDER,
            "header_from": SENDER,
            "from_key": SENDER,
            "message_id": SENDER,
            "relay": CLIENT,
            "spf_domain": DOMAIN,
            "helo_spf_domain": DOMAIN,
            "dmarc_domain": DOMAIN,
            "dmarc_organisation": DOMAIN,
            "trail": CLIENT,
        },
        "`addresses` for client and host names, `rows` for the rest; with a trap `traps`",
    ),
    "recipient": (
        {"address": RECIPIENT, "trap_key": RECIPIENT},
        "`recipients`; with a trap `traps`",
    ),
    "signature": ({"domain": DOMAIN}, "with its message"),
    "message_domain": ({"reversed": DOMAIN}, "with its message"),
    "message_key": ({"key": "a fingerprint of an imported log line"}, "with its message"),
    "domain_day": ({"reversed": DOMAIN}, "with its messages"),
    "domain_host": (
        {"reversed": DOMAIN, "host": CLIENT, "name": CLIENT},
        "`addresses`; the prefix with its messages",
    ),
    "identity": (
        {"value": f"{SENDER}, domain or client", "reversed": DOMAIN, "note": OPERATOR},
        "`rows` after it was last seen (a client: `addresses`); after a trap hit `traps`",
    ),
    "dkim_key": ({"reversed": DOMAIN, "domain": DOMAIN}, "`traps` after it was last seen"),
    "listing": (
        {"value": f"{SENDER}, domain or client", "note": OPERATOR, "network": CLIENT},
        "`traps` after it ended",
    ),
    "listing_change": ({"value": f"{SENDER}, domain or client"}, "the newest rows only"),
    "evidence": ({"trap": RECIPIENT}, "with its listing"),
    "trap_hit": (
        {"whose": "domain or client", "prefix": CLIENT, "host": CLIENT},
        "`sender.listing_memory`",
    ),
    "trap": ({"key": RECIPIENT, "raw": RECIPIENT, "note": OPERATOR}, "until you remove it"),
    "waiting_sums": ({"sums": f"{DOMAIN} and clients"}, "until the next batch counts them"),
}
# Tables in which nothing is about a person: numbers by day, and the store's own bookkeeping.
NOBODY = {
    "counter", "journal_gap", "journal_mark", "message_count", "revision", "submission_count",
}  # fmt: skip
# Columns of the tables above that are about nobody: times, numbers, words of ours.
PLAIN = set(
    "id at learned source stage queue_id direction family size action reason shadow arc_cv "
    "arc_reason traps spf spf_mechanism spf_reason helo_spf helo_spf_mechanism helo_spf_reason dmarc "
    "dmarc_policy dmarc_aligned dmarc_reason marks message_id position trap accepted selector "
    "algorithm canonicalization key_bits body_limit unsigned_bytes crypto result flags b_hash addressed "
    "shared day messages trap_messages trap_hits first_at last_at kind first_seen last_seen days "
    "ipv4 ipv6 repeat previous_bits changed since until seconds hits by_hand forgiven listing_id "
    "published published_at added removed generation live_at live_as".split()
)

COUNT = re.compile(r"(?:dkim|spf|dmarc)_")  # of domain_day: how many messages had which result


def reasons() -> list[tuple[str, str]]:
    """Each reason with the comment beside it, in the code's order."""
    source = inspect.getsource(decision)
    return re.findall(r'^    [A-Z_]+ = "([a-z-]+)"  # (.+)$', source, re.M)


def replies() -> dict[str, decision.Reply]:
    """Each reply that a stranger or a user can get, by its name in the code."""
    return {n: v for n, v in vars(decision).items() if isinstance(v, decision.Reply)}


def log_keys() -> set[str]:
    """The keys of a message's line, as maillog.py writes them."""
    source = inspect.getsource(maillog.message_fields)
    return {"at", *re.findall(r'out\["(\w+)"\]', source), *re.findall(r'"(\w+)": facts', source)}


def symptoms() -> str:
    """docs/symptoms.md."""
    told, known = replies(), reasons()
    _same("replies", set(told), set(REPLIES))
    _same("reasons", {name for name, _ in known}, set(REASONS))
    lines = [
        "# What somebody sees, and what to do",
        "",
        "<!-- Generated by tools/operator_pages.py: change what it is made from, then `make docs`. -->",
        "",
        "Mail must flow now, whatever it is: [off in a hurry](install.md#off-in-a-hurry).",
        "",
        '## "My mail is refused with ..."',
        "",
        "These are all the texts that gatepost has. Another text is the MTA's, or another filter's.",
        "",
        "| reply | whose mail, and what to do |",
        "|---|---|",
    ]
    order = sorted(told, key=lambda name: (told[name].code, told[name].status))
    lines += [f"| `{told[name]}` | {REPLIES[name]} |" for name in order]
    lines += [
        "",
        "Postfix says `451 4.7.1 Service unavailable` to your users while the milter is down: mail that",
        "cannot be cleaned waits. `systemctl status gatepost-milter`.",
        "",
        "## One log line, key by key",
        "",
        "    journalctl -u gatepost-milter -o cat",
        "",
        "A message is one line, keys always in this order. Lines with `event=` are about the service.",
        "",
        "| key | meaning |",
        "|---|---|",
    ]
    _same("keys of the log line", log_keys(), set(KEYS))
    lines += [f"| `{key}` | {meaning} |" for key, meaning in KEYS.items()]
    lines += [
        "",
        "## The reason in the log line",
        "",
        "`reason=` in the log, the report, the metrics, and the name of the table",
        '`[rules.REASON]` that turns a rule down (`mode = "shadow"` or `"off"`):',
        "",
        "| reason | meaning | what to do |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {meaning} | {REASONS[name]} |" for name, meaning in known]
    return "\n".join(lines) + "\n"


def personal_data() -> str:
    """docs/personal-data.md."""
    schema = {t.name: [c.name for c in t.columns] for t in tables.Base.metadata.sorted_tables}
    _same("tables", set(schema), set(COLUMNS) | NOBODY)
    lines = (ROOT / "tools" / "personal-data.md.in").read_text().splitlines()
    table = ["| table | columns that tell of a person | kept for |", "|---|---|---|"]
    for name in sorted(COLUMNS):
        told, kept = COLUMNS[name]
        counts = {c for c in schema[name] if name == "domain_day" and COUNT.match(c)}
        unknown = set(schema[name]) - set(told) - PLAIN - counts
        if unknown or set(told) - set(schema[name]):
            raise SystemExit(
                f"tools/operator_pages.py: {name}: {unknown or set(told)}: whose data?"
            )
        said: dict[str, list[str]] = {}
        for column, what in told.items():
            said.setdefault(what, []).append(f"`{column}`")
        words = "; ".join(f"{', '.join(names)}: {what}" for what, names in said.items())
        table.append(f"| `{name}` | {words} | {kept} |")
    table.append(f"| {', '.join(f'`{n}`' for n in sorted(NOBODY))} | none | |")
    at = lines.index("@TABLE@")
    return "\n".join([*lines[:at], *table, *lines[at + 1 :]]) + "\n"


def _same(what: str, code: set[str], here: set[str]) -> None:
    if code != here:
        raise SystemExit(f"tools/operator_pages.py: {what} of the code and here: {code ^ here}")


def pages() -> dict[Path, str]:
    """Every generated file with what belongs in it."""
    return {SYMPTOMS: symptoms(), PERSONAL: personal_data()}


def main() -> int:
    """Write or check."""
    stale = [p for p, text in pages().items() if not p.exists() or p.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run `make docs`")
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
