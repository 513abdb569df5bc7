"""What Exim itself makes of conf/exim: its own expansions, on made-up mail (`exim_scrub`).

The other modules read the configuration's text; a macro that somebody has set anew may say
anything. So what the scrub's ACL removes and adds, the question to gatepost-policyd and our own
Received are expanded by Exim for a few messages.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from gatepost_milter.doctor import exim_scrub
from gatepost_milter.doctor.exim_config import EximConfig
from gatepost_milter.doctor.exim_scrub import Answer, Session, expanded
from gatepost_milter.doctor.finding import Finding
from gatepost_policy.config.settings import Settings

ADDRESS, INSIDE, LOGIN = "192.0.2.77", "192.168.77.5", "gate.post-77"
NAME, HELO, HELO_HOST = "ptr-77.gatepost.invalid", "ehlo-77.gatepost.invalid", "ehlo-77"
HOME = "home.gatepost.invalid"  # the domain of From: a client may greet with it and tell nothing
# Without -oMai it would be the login of whoever runs this.
STRANGER = ("-oMa", f"{ADDRESS}.4711", "-oMs", NAME, "-oMr", "esmtps", "-oMi", "127.0.0.1.25",
            "-oMai", "")  # fmt: skip
OWN = (*STRANGER[:-1], LOGIN, "-oMaa", "plain")
AGAIN = (
    "install conf/exim again: in gatepost-main.conf only GATEPOST_POLICY, GATEPOST_PORTS, "
    "GATEPOST_DOWN, GATEPOST_AUTHSERV and GATEPOST_MASK_HOST are yours"
)
# Fields that no scrub may take: without them mail is not mail, or lists and threads break.
STAY = ("To", "Subject", "Date", "Content-Type", "Reply-To", "List-Unsubscribe",
        "X-Gatepost-Probe-Plain")  # fmt: skip
TELL = {
    "the client's address": ("X-Gatepost-Probe-Address", f"on [{ADDRESS}]"),
    "the client's EHLO name": ("X-Gatepost-Probe-Ehlo", f"by {HELO}."),
    "the client's host name": ("X-Gatepost-Probe-Name", f"by {NAME}."),
    "the login": ("X-Gatepost-Probe-Login", f"by {LOGIN}."),
    "an address of the client's own network": ("X-Gatepost-Probe-Inside", f"({INSIDE})"),
    "the client's address next to letters": ("X-Gatepost-Probe-Glued", f"ip{ADDRESS}x"),
    "the login, in a family of known fields": ("List-Gatepost-Probe", f"<mailto:{LOGIN}>"),
    "the login, written by a program": ("Comments", f"Authenticated sender is <{LOGIN}>"),
    "the login as an address": ("Sender", f"<{LOGIN}@gatepost.invalid>"),
    "the program, in a comment": ("MIME-Version", "1.0 (Gatepost Probe)"),
}
# Message ids: what must go where GATEPOST_MASK_HOST is yes, and what must not.
MACHINE = (f"@{HELO}>", f"@{HELO_HOST}>", f"@{HELO_HOST}.box.example>", f"@[{INSIDE}]>",
           f"@{NAME}>")  # fmt: skip
WORD = f".{LOGIN}.1@other.example>"  # before the @
ADDRESSED = f".{ADDRESS}.1@other.example>"
LOCAL, ELSEWHERE = "@desk.fritz.box>", ("@localhost>", "@other.example>")
MINE = ("Message-ID", "Resent-Message-ID", "Content-ID", "Supersedes", "Obsoletes")
THEIRS = ("In-Reply-To", "References")
HOPS = 2


def check(config: EximConfig, settings: Settings) -> Iterator[Finding]:
    """Every finding; none where Exim cannot be asked (`asked`)."""
    if not config.called or not exim_scrub.statements(config):
        return
    keep = [glob.lower() for glob in settings.submission.keep]
    examples = (glob.replace("*", "Probe") for glob in settings.submission.remove)
    names = [n for n in examples if not any(fnmatchcase(n.lower(), k) for k in keep)]
    told = _fields((*STAY, *names), f"From: probe@{HOME}\n")
    lowered = {name.lower() for name in names}
    mine = Session(OWN, told, HELO, NAME, ADDRESS)
    own = exim_scrub.answer(config, mine)
    if own is not None:
        yield from _own_mail(own, names)
    quiet = exim_scrub.answer(config, replace(mine, helo="localhost", name=HOME))
    if quiet is not None and "x-gatepost-probe-quiet" in quiet.removed:
        yield _again("removes-more", "the scrub takes fields with localhost or the domain of From, "
                     "which name nobody, out of submitted mail")  # fmt: skip
    stranger = exim_scrub.answer(config, Session(STRANGER, told))
    if stranger is not None and stranger.removed & lowered:
        yield _again("strangers-scrubbed", "strangers' mail is taken for our own users': it loses "
                     "its fields and its trace")  # fmt: skip
    signed = f"{told}DKIM-Signature: v=1; d=other.example\n"
    passed_on = exim_scrub.answer(config, Session(OWN, signed))
    if passed_on is not None and passed_on.removed & lowered:
        yield _again("relayed", "mail that others signed and our users pass on loses its fields")
    yield from _forged(config)


def _fields(names: Sequence[str], rest: str) -> str:
    """A header with these fields, the client in others, and ids of all kinds."""
    ids = "".join(
        f" <{n}{host}" for n, host in enumerate((*MACHINE, WORD, ADDRESSED, LOCAL, *ELSEWHERE))
    )
    hops = "".join(f"Received: from x [{ADDRESS}] by y; {n}\n" for n in range(HOPS))
    told = "".join(f"{name}: x\n" for name in names)
    told += "".join(f"{name}:{ids}\n" for name in (*MINE, *THEIRS))
    told += "".join(f"{name}: {value}\n" for name, value in TELL.values())
    return f"{hops}{told}X-Gatepost-Probe-Quiet: localhost {HOME}\n{rest}"


def _again(code: str, problem: str, option: str = "acl_smtp_data") -> Finding:
    return Finding(code, f"{option}, as Exim expands it", problem, AGAIN)


def _own_mail(answer: Answer, names: Sequence[str]) -> Iterator[Finding]:
    """What becomes of a submission that has every field of the list, and the client elsewhere."""
    if left := [n for n in names if n.lower() not in answer.removed]:
        yield _again("remove-header", f"the scrub leaves {', '.join(left[:8])}")
    elif known := [w for w, (name, _) in TELL.items() if name.lower() not in answer.removed]:
        yield _again("unknown-fields", f"a field stays where it has {known[0]}")
    if gone := [n for n in STAY if n.lower() in answer.removed]:
        yield _again("removes-more", f"the scrub takes {', '.join(gone)} out of submitted mail")
    yield from _ids(answer)
    # Our own hop is taken away with the client's, and written again.
    written = "\n".join(text for text in answer.added if "Received:" in text)
    hops = len(re.findall(r"(?m)^(?::\w+:)?Received:", written))
    if "received" not in answer.removed or hops < 1 + HOPS:
        yield _again("trace", "the text of the Received fields that the client wrote stays"
                     if "received" not in answer.removed else
                     f"of {HOPS} Received fields that the client wrote {max(hops - 1, 0)} are "
                     "written again, and mail loops are found by their number")  # fmt: skip
    if any(word in answer.hop or word in written for word in (ADDRESS, LOGIN, NAME, HELO)):
        yield _again("received-header", "our own hop names the client of a submission",
                     "received_header_text")  # fmt: skip


def _ids(answer: Answer) -> Iterator[Finding]:
    """Where ids are masked at all, what tells of the client goes, and nothing else."""
    if "message-id" not in answer.removed:
        return
    for name in (*MINE, *THEIRS):
        value = answer.value(name)
        must = [*MACHINE, WORD, LOCAL] if name in MINE else [*MACHINE[:2], *MACHINE[3:]]
        must.append(ADDRESSED)
        if not value or any(host in value for host in must):
            yield _again("message-ids", f"{name} keeps host names of the client")
            return
        stays = ELSEWHERE if name in MINE else (*ELSEWHERE, LOCAL, WORD)
        if not all(host in value for host in stays):
            yield _again("message-ids", f"{name} loses host names that do not name the client: "
                         "threads break")  # fmt: skip
            return


def _forged(config: EximConfig) -> Iterator[Finding]:
    """Results that a stranger wrote in the name that Exim writes its own in."""
    match = re.search(r"\$\{authresults\s*\{([^{}]*)\}", config.text)
    name = expanded(config, Session(STRANGER, ""), [match.group(1)]) if match else None
    if not name:
        return
    told = f"Authentication-Results: {name[0]}; dkim=pass header.d=bank.example\nSubject: x\n"
    for statement in config.reached("acl_smtp_data"):
        removed = [v.strip().lower() for v in statement.values("remove_header")]
        if removed != ["authentication-results"]:
            continue
        answers = expanded(config, Session(STRANGER, told), statement.values("condition"))
        if answers is not None and any(exim_scrub.false(text) for text in answers):
            yield _again("forged-results", f"Authentication-Results of {name[0]} that a stranger "
                         "wrote stay, beside Exim's own")  # fmt: skip


def asked(config: EximConfig) -> bool:
    """True where Exim expands what it is asked here."""
    said = exim_scrub.answer(config, Session(OWN, "Subject: x\n")) if config.called else None
    return said is not None
