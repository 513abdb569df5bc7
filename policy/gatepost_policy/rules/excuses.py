"""Why nobody is listed for a trap hit: classes of mail whose sender may be innocent. Pure.

CLASSES are asked in order. Two kinds:

* what the sender cannot forge (our own host, a protected domain, a client that others share) always
  excuses;
* what he writes himself (List-Id, a rewritten envelope sender, Auto-Submitted, In-Reply-To, an
  empty envelope sender, a d= that cannot be verified) excuses only on `sender.excuses` days in
  EXCUSE_DAYS; after that the hit counts as any other.
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
# Authors of bounces. A postmaster is a person too: he counts with an empty envelope sender only.
BOUNCERS = ROBOTS | {"postmaster"}


def own_host(case: Case) -> bool:
    """The client's address identifies no host outside, or is our own: it does not say who sent
    this.
    """
    return case.client_is_ours


def backscatter(case: Case) -> bool:
    """A bounce to a trap: somebody forged the trap as a sender, and the host that bounces is a
    victim too.

    An empty envelope sender does not excuse a domain that signed.
    """
    return case.facts.sender.null and not case.aligned


def protected(case: Case) -> bool:
    """Everything proven here is on never_list or our own: a service with many users, or ourselves.

    Where nothing is proven the client counts: an outgoing relay of a mail service carries mail of
    many users, even if one message is unsigned. A client that replays a message of a mail service
    is not excused.
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
    """A rewritten sender (SRS): the client forwards what others wrote; nobody rewrites the sender
    of his own mail.
    """
    if not is_forwarder(case.facts.sender):
        return False
    return _of_others(case, case.punishable)


def _of_others(case: Case, domains: tuple[str, ...]) -> bool:
    """True where the author is of another organisation than the envelope sender.

    A list or forwarder may sign too, beside the author: the excuse still holds. Where only its own
    d= is proven there is no excuse (`blame` checks that d= as well).
    """
    away = [d for d in domains if case.elsewhere(d)]
    if len(away) == len(domains):
        return True
    return any(same(author, d) for author in _author(case) for d in away)


def auto_reply(case: Case) -> bool:
    """A program answers (RFC 3834), reports (RFC 6522) or probes: the trap's address was forged."""
    if case.facts.says("auto") or case.facts.says("report"):
        return True
    if case.facts.sender.local.lower() in ROBOTS:
        return True
    # A bounce that a gateway signed: the envelope sender is empty, and From is a program's address.
    author = case.facts.header_from
    return case.facts.sender.null and author is not None and author.local.lower() in BOUNCERS


def answer(case: Case) -> bool:
    """In-Reply-To or References: somebody answers spam that forged the trap as its sender."""
    return case.facts.says("reply")


def not_verified(case: Case) -> bool:
    """Nothing is proven, because signatures were not or could not be checked: that proves no
    guilt.
    """
    if case.aligned:
        return False
    if case.facts.over_limit is not None:
        return True
    return any(
        s.result == "temperror" or s.reason in (Why.SKIPPED, Why.NOT_BELIEVED, Why.INTERNAL)
        for s in case.facts.signatures
    )


def shared_client(case: Case) -> bool:
    """Nothing is proven, and the client has brought good mail too: many may share it.

    Good mail of two or more domains shows that they do. A client with less may be a bot whose mail
    only looked good: it is excused until its hits are a habit (HABIT_DAYS days and over
    `sender.trap_ratio`). Of a host that SPF allows to send for many names, each name is judged for
    its own hits.
    """
    if case.aligned or not case.client_is_shared:
        return False
    return not _habit(case)


def _habit(case: Case) -> bool:
    past = case.past
    if past is None or case.prefix is None or past.client.domains > 1:
        return False
    before = [h for h in case.hits(case.prefix) if h.reason in (Reason.SHARED_CLIENT, Reason.TRAP)]
    good = past.client
    hits = len({hit.message_id or str(hit.at) for hit in before}) + 1
    mine = case.facts.spf_domain
    if mine is not None and good.customers >= case.settings.sender.good_messages >= 1:
        # A host that sends for many names, as SPF says: the hits of its other customers are not
        # this one's. Where there are more hits than good mail it has no other customers.
        if hits <= good.messages:
            before = [h for h in before if h.spf is None or same(h.spf, mine)]
            hits = len({hit.message_id or str(hit.at) for hit in before}) + 1
    ratio = hits / (good.messages + hits)
    days = {hit.day for hit in before} | {case.today}
    return len(days) >= HABIT_DAYS and ratio > case.settings.sender.trap_ratio


def against_client(case: Case, domain: str) -> bool:
    """True where the client seems to resend what `domain` wrote to somebody else.

    The envelope sender is of another organisation or SPF says fail, and the signed To and Cc name
    others. For a mail service, which is never listed itself, an empty envelope sender or a softfail
    is enough: nobody else could be listed for it.
    """
    against = case.elsewhere(domain) or case.spf == "fail"
    if not against and case.is_service(domain):
        against = case.facts.sender.null or case.spf == "softfail"
    if not against:
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
# Classes of mail that others wrote: the list or forwarder may have signed beside the author.
HANDED_ON = frozenset({Reason.LIST, Reason.FORWARDER})
# Classes that rest on what the sender wrote, so he can fake them: they excuse only for a time.
WRITTEN = frozenset({
    Reason.BACKSCATTER, Reason.LIST, Reason.FORWARDER, Reason.AUTO_REPLY, Reason.ANSWER,
    Reason.NOT_VERIFIED,
})  # fmt: skip


def licensed(case: Case) -> bool:
    """True while a class of WRITTEN may still excuse this sender.

    That is on `sender.excuses` days within EXCUSE_DAYS, whatever the number of hits on one day.
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
