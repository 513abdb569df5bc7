"""Why a trap hit may punish nobody: classes of mail whose sender need not know what he did. Pure.

CLASSES are asked in order. Two kinds:

* what the sender cannot make true by writing it (our own host, a protected domain, a client that
  others share) always holds;
* what he writes himself (List-Id, a rewritten envelope sender, Auto-Submitted, In-Reply-To, an
  empty envelope sender, a d= that cannot be verified) is no licence: it excuses on `sender.excuses`
  days in EXCUSE_DAYS, and then the hit is a plain one.
"""

from collections.abc import Callable

from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.dkim_reason import Why
from gatepost_policy.mail.organisation import same
from gatepost_policy.rules.case import Case, is_forwarder

EXCUSE_DAYS = 30
# A habit: hits on so many days, and more than `sender.trap_ratio` of all its mail here.
HABIT_DAYS = 3
# Senders that are programs: a bounce of a bounce, an address probe (Postfix), a bounce that has a
# sender. Written by the client, like all of this.
ROBOTS = frozenset({"mailer-daemon", "double-bounce"})


def own_host(case: Case) -> bool:
    """The client's address is nobody's, or our own: who sent it, nobody can tell by it."""
    return case.client_is_ours


def backscatter(case: Case) -> bool:
    """A bounce to a trap: somebody forged the trap as a sender. Its host is a victim, too.

    An empty envelope sender does not excuse who signed.
    """
    return case.facts.sender.null and not case.aligned


def protected(case: Case) -> bool:
    """Everything proven here is on never_list or our own: a crowd, or ourselves.

    Where nothing is proven the client's name speaks: an outgoing relay of a mail service carries
    the mail of the crowd even where one message of it came unsigned. A bot that replays a message
    of a mail service is not that service.
    """
    if not case.aligned:
        return case.client_is_service
    if case.punishable:
        return False
    if case.client_is_service or any(case.is_own(d) for d in case.aligned):
        return True
    return not any(against_client(case, d) for d in case.aligned)


def mailing_list(case: Case) -> bool:
    """A list post: the poster does not know who is subscribed (RFC 2919), and a list has a sender
    of its own."""
    if not case.facts.says("list"):
        return False
    return _of_others(case, case.punishable or _author(case))


def forwarder(case: Case) -> bool:
    """A rewritten sender: the client forwards what others wrote. Nobody forwards his own mail."""
    if not is_forwarder(case.facts.sender):
        return False
    return _of_others(case, case.punishable)


def _of_others(case: Case, domains: tuple[str, ...]) -> bool:
    """True where the author is of another organisation than the envelope sender.

    A list or forwarder may sign as well, beside the author's signature: that makes its mail no
    worse. Where only its own d= is proven it excuses nothing (`blame` looks at that one, too).
    """
    away = [d for d in domains if case.elsewhere(d)]
    if len(away) == len(domains):
        return True
    return any(same(author, d) for author in _author(case) for d in away)


def auto_reply(case: Case) -> bool:
    """A program answers (RFC 3834), reports (RFC 3462) or probes: the trap's address was forged."""
    if case.facts.says("auto") or case.facts.says("report"):
        return True
    if case.facts.sender.local.lower() in ROBOTS:
        return True
    # A bounce that a gateway signed: the envelope is empty, and a robot stands in From.
    author = case.facts.header_from
    return case.facts.sender.null and author is not None and author.local.lower() in ROBOTS


def answer(case: Case) -> bool:
    """In-Reply-To or References: somebody answers spam that forged the trap as its sender."""
    return case.facts.says("reply")


def not_verified(case: Case) -> bool:
    """Nothing is proven because it was not, or could not be, looked at: that says nothing."""
    if case.aligned:
        return False
    if case.facts.over_limit is not None:
        return True
    return any(
        s.result == "temperror" or s.reason in (Why.SKIPPED, Why.NOT_BELIEVED, Why.INTERNAL)
        for s in case.facts.signatures
    )


def shared_client(case: Case) -> bool:
    """Nothing is proven, and the client brings good mail as well: many share it.

    That they are many is proven by two domains. A bot that signs nothing may have brought some
    mail that looked good before: it has no more patience than a signer, whose habit is one.
    """
    if case.aligned or not case.client_is_shared:
        return False
    return not _habit(case)


def _habit(case: Case) -> bool:
    past = case.past
    if past is None or case.prefix is None or past.client.domains > 1:
        return False
    before = [h for h in case.hits(case.prefix) if h.reason in (Reason.SHARED_CLIENT, Reason.TRAP)]
    hits = len({hit.message_id or str(hit.at) for hit in before}) + 1
    ratio = hits / (past.client.messages + hits)
    days = {hit.day for hit in before} | {case.today}
    return len(days) >= HABIT_DAYS and ratio > case.settings.sender.trap_ratio


def against_client(case: Case, domain: str) -> bool:
    """True where the message speaks against the client: a stranger sends on what `domain` wrote.

    The envelope is somebody else's or SPF says fail, and what was signed is addressed to others.
    """
    if not (case.elsewhere(domain) or case.spf == "fail"):
        return False
    return any(s.addressed == "others" for s in case.signatures(domain))


def _author(case: Case) -> tuple[str, ...]:
    author = case.facts.header_from
    return (author.domain,) if author is not None and author.domain else ()


Class = Callable[[Case], bool]
CLASSES: tuple[tuple[Reason, Class], ...] = (
    (Reason.OWN_HOST, own_host),
    (Reason.NEVER_LIST, protected),
    (Reason.BACKSCATTER, backscatter),
    (Reason.LIST, mailing_list),
    (Reason.FORWARDER, forwarder),
    (Reason.AUTO_REPLY, auto_reply),
    (Reason.ANSWER, answer),
    (Reason.NOT_VERIFIED, not_verified),
    (Reason.SHARED_CLIENT, shared_client),
)
# Others wrote the message: whoever hands it on may have signed it beside its author.
HANDED_ON = frozenset({Reason.LIST, Reason.FORWARDER})
# What the sender writes himself.
WRITTEN = frozenset({
    Reason.BACKSCATTER, Reason.LIST, Reason.FORWARDER, Reason.AUTO_REPLY, Reason.ANSWER,
    Reason.NOT_VERIFIED,
})  # fmt: skip


def licensed(case: Case) -> bool:
    """True while what the sender writes himself may excuse him once more.

    On `sender.excuses` days in EXCUSE_DAYS, whatever the number of hits on one day.
    """
    for whose in case.whose:
        days = {
            hit.day
            for hit in case.hits(whose)
            if hit.reason in WRITTEN and case.today - hit.day < EXCUSE_DAYS
        }
        if case.today not in days and len(days) >= case.settings.sender.excuses:
            return False
    return True


def envelope_of(case: Case, domain: str) -> bool:
    """True where the envelope sender is of `domain`'s own organisation."""
    return bool(case.facts.sender.domain) and same(case.facts.sender.domain, domain)
