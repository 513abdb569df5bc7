"""Lay out everything about one message for people: lines to read, and for grep to find."""

from collections.abc import Iterator, Mapping

from gatepost_policy.mail import reason_words
from gatepost_policy.mail.facts import Signature, SpfCheck
from gatepost_policy.report.report import Line
from gatepost_policy.report.standing import NAMES
from gatepost_policy.report.why import Why
from gatepost_policy.rules.explain import Explained, Said
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

LABEL = 10
RULE = 15  # width of a rule's name
UNKNOWN = "not known"
IMPORTED = "what the MTA did; the log was imported, no rule of ours was asked"
# Whether a second witness holds (`Witness.second`), in words.
_HOLDS = {True: "yes", False: "no", None: UNKNOWN}
_RULE = {
    "decides": "DECIDES",
    "shadow": "shadow",
    "off": "off",
    "silent": "silent",
    "not asked": "not asked",
}
_CLASS = _RULE | {"decides": "EXCUSES", "silent": "no"}


def text(why: Why) -> str:
    """The whole text, with line ends; times are in UTC."""
    lines = [
        shown(f"{why.line.queue_id or why.line.message_id or why.line.id}"),
        *message_rows(why),
        "",
        "What was known of the sender then",
        *known_rows(why),
    ]
    for title, found in (
        ("The rules, with what was known then and today's settings", why.then),
        ("The rules, if it came now", why.now),
    ):
        if found is not None:
            lines += ["", title, *explained(found)]
    if why.then is None:
        lines += ["", "Mail of our own users is not judged; nothing is known of who wrote it."]
    elif differs(why):
        lines += ["", differs(why)]
    if why.others:
        times = ", ".join(timestamp(line.at) for line in why.others)
        lines += ["", f"{plural(len(why.others), 'older message')} with this id: {times}"]
    return "\n".join(lines) + "\n"


def _row(label: str, value: str) -> str:
    return f"  {label:<{LABEL}}{value}".rstrip()


def pairs(rows: Iterator[str]) -> list[tuple[str, str]]:
    """The rows of `message_rows` or `known_rows` as (label, text); '' continues the one above."""
    return [(row[2 : 2 + LABEL].strip(), row[2 + LABEL :]) for row in rows]


def parts(why: Why) -> Iterator[tuple[str, str, str]]:
    """Everything about the message as (part, name, text), for programs that want a table."""
    for part, rows in (("message", message_rows(why)), ("known", known_rows(why))):
        name = ""
        for label, words in pairs(rows):
            name = label or name
            yield part, name, words
    for part, found in (("then", why.then), ("now", why.now)):
        if found is not None:
            for said in found.rules:
                yield part, said.rule, _said(said)[RULE:].strip()
            for said in found.classes:
                yield part, said.rule, _said(said, _CLASS)[RULE:].strip()
            decision = found.decision
            yield part, "decision", f"{decision.action.value} {decision.reason.value}"


def message_rows(why: Why) -> Iterator[str]:
    """What was seen of the message and what was decided, as rows of text."""
    line = why.line
    yield _row("received", f"{timestamp(line.at)} by {line.source}, {line.direction}")
    if line.direction == "inbound":
        yield _row("client", _client(line))
        yield _row("helo", shown(line.helo) if line.helo else UNKNOWN)
    yield _row("sender", _address(line.sender))
    yield _row("from", UNKNOWN if line.header_from is None else shown(line.header_from))
    for address, trap in line.recipients:
        yield _row("to", shown(address) + (" (trap, then or later)" if trap else ""))
    yield _row("id", shown(line.message_id) if line.message_id else UNKNOWN)
    yield _row("size", UNKNOWN if line.size is None else plural(line.size, "octet"))
    if line.trail is None:
        yield _row("trail", UNKNOWN)
    for hop in line.trail or ():
        family = UNKNOWN if hop.family is None else NAMES.get(str(hop.family), str(hop.family))
        claims = f"{shown(hop.protocol or UNKNOWN)} over {family} (claimed)"
        yield _row("trail", claims)
    if not line.signatures:
        seen = "unsigned" if why.stage == "end" else f"{UNKNOWN}: only a RCPT TO was seen"
        yield _row("dkim", seen)
    for signature in line.signatures:
        yield _row("dkim", _signature(signature))
    if line.spf is None:
        yield _row("spf", f"{UNKNOWN}: not evaluated")
    else:
        yield _row("spf", _spf(line.spf.mail_from, "mailfrom"))
        yield _row("", _spf(line.spf.helo, "helo"))
    if line.dmarc is None:
        yield _row("dmarc", f"{UNKNOWN}: not evaluated")
    else:
        asked = line.dmarc.policy or "nothing is asked for"
        aligned = ", ".join(line.dmarc.aligned) or "nothing"
        yield _row(
            "dmarc",
            shown(f"{line.dmarc.result} {line.dmarc.domain}, policy {asked}, aligned: {aligned}"),
        )
    words = IMPORTED if line.source.endswith("-log") else reason_words.reason(line.reason)
    yield _row("decided", shown(f"{line.action} {line.reason}") + (f": {words}" if words else ""))
    for word in why.shadow:
        yield _row("in shadow", f"{shown(word)}: {reason_words.reason(word) or UNKNOWN}")


def _client(line: Line) -> str:
    if line.address is None:
        return UNKNOWN if line.family == "unknown" else NAMES.get(line.family, line.family)
    return f"{shown(line.client_name) if line.client_name else 'no verified name'} [{line.address}]"


def _address(sender: str | None) -> str:
    return UNKNOWN if sender is None else shown(f"<{sender}>")


def _signature(one: Signature) -> str:
    words = [f"{one.result} d={one.domain or ''} s={one.selector or ''}"]
    words += [word for word in (one.algorithm, one.canonicalization) if word]
    if one.key_bits:
        words.append(f"{one.key_bits} bits")
    if one.body_limit is not None:
        words.append(f"l={one.body_limit}")
    text = " ".join(words)
    if one.reason is not None:
        text += f": {one.reason.value}, {reason_words.WHY[one.reason]}"
    return shown(text) + ("" if one.proven else "; proves nothing")


def _spf(check: SpfCheck, name: str) -> str:
    by = f" by {check.mechanism}" if check.mechanism else ""
    why = f" ({check.reason})" if check.reason else ""
    return shown(f"{check.result}{why} {name}={check.domain or ''}{by}")


def known_rows(why: Why) -> Iterator[str]:
    """What the store still has from before the message, as rows of text, and what is not known."""
    for one in why.before:
        if not one.messages or one.first is None or one.last is None:
            yield _row("before", f"{shown(one.who)}: nothing that is kept")
            continue
        span = f"{timestamp(one.first)[:10]} to {timestamp(one.last)[:10]}"
        traps = f"{one.traps} to traps, " if one.traps else "none to a trap, "
        yield _row("before", f"{shown(one.who)}: {plural(one.messages, 'message')}, {traps}{span}")
    for listed in why.listed:
        kind = "promoted, " if listed.promoted else ""
        value = shown(listed.identity.value)
        yield _row("listed", f"{value} ({kind}until {timestamp(listed.until)})")
    if not why.listed:
        yield _row("listed", "nobody, as far as the store still has listings of that time")
    yield _row("repeat", f"{UNKNOWN}: who was a repeat sender then is not stored")
    yield _row("settings", f"{UNKNOWN}: the configuration of then is not stored")


def explained(found: Explained) -> Iterator[str]:
    """Lines for the rules in order, the classes of a trap hit, its witnesses, and the decision."""
    for number, said in enumerate(found.rules, start=1):
        yield f"  {number}. {_said(said)}"
    if found.blame is not None:
        yield "  What may excuse a trap hit, in order"
        for said in found.classes:
            yield f"     {_said(said, _CLASS)}"
        for witness in found.witnesses:
            first = "signed, aligned" if witness.signed else "not signed by anybody it names"
            yield f"  Witnesses against {shown(witness.whose)}: {first}"
            for words, holds in witness.second:
                yield f"     {_HOLDS[holds]:<11}{shown(words)}"
        listed = ", ".join(shown(i.value) for i in found.blame.identities) or "nobody"
        yield f"  Listed for it: {listed} ({found.blame.reason.value})"
    decision = found.decision
    reply = f", {decision.reply}" if decision.reply is not None else ""
    shadow = f"; in shadow: {', '.join(decision.shadow)}" if decision.shadow else ""
    yield f"  Decision: {decision.action.value} {decision.reason.value}{reply}{shadow}"


def _said(said: Said, effects: Mapping[str, str] = _RULE) -> str:
    outcome = f": {said.action} {said.reason}" if said.action else ""
    return shown(f"{said.rule:<{RULE}}{effects[said.effect]:<10}{said.words}{outcome}")


def differs(why: Why) -> str:
    """A sentence where the rules do not give the decision that was recorded; '' where they do."""
    # A log tells what the MTA did: no rule gave a reason, so there is none to compare.
    imported = why.line.source.endswith("-log")
    done = why.line.action if imported else f"{why.line.action} {why.line.reason}"
    said = []
    for found, when in ((why.then, "with what was known then"), (why.now, "now")):
        if found is not None:
            decided = f"{found.decision.action.value} {found.decision.reason.value}"
            if done != (found.decision.action.value if imported else decided):
                said.append(f"{when} the rules say {decided}")
    if not said:
        return ""
    start = "By its log the MTA said" if imported else "It was decided"
    return f"{start} {shown(done)}; {', '.join(said)}."
