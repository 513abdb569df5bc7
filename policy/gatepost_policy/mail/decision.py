"""What to do about a message: one action, one named reason, one reply without details.

Pure values. A reason is a stable word: it stands in the log, the store, the report, the metrics and
in `[rules.REASON]` of the configuration. What the client is told (`Reply`) names no trap.
"""

from enum import StrEnum

from gatepost_policy.mail.message_dataclass import dataclass


class Action(StrEnum):
    """The answer to the MTA."""

    ACCEPT = "accept"
    REJECT = "reject"
    TEMPFAIL = "tempfail"
    DISCARD = "discard"


class Reason(StrEnum):
    """Why. The comment says what it means to an operator."""

    # Inbound mail
    NO_BAD_SIGNAL = "no-bad-signal"  # nothing known against this message
    TRAP = "trap"  # every recipient is a trap
    TRAP_MIXED = "trap-mixed"  # traps and real recipients in one message
    SHARED_CLIENT = "shared-client"  # a trap hit by a client that also delivers good mail
    BACKSCATTER = "backscatter"  # a null sender hit a trap: somebody forged the trap's address
    FORWARDER = "forwarder"  # a rewritten sender (SRS and its kin) hit a trap: not listed
    LIST = "list"  # a list post hit a trap: the poster does not know who is subscribed
    AUTO_REPLY = "auto-reply"  # a program answered mail that forged the trap as its sender
    ANSWER = "answer"  # somebody answered mail that forged the trap as its sender
    OWN_HOST = "own-host"  # a trap hit from an address that is nobody's, or our own: not listed
    NOT_VERIFIED = "not-verified"  # a trap hit of which nothing could be verified: not listed
    REPLAYED = "replayed"  # signed mail that somebody else sent to the trap: the client is to blame
    ONE_WITNESS = "one-witness"  # signed mail in a trap, and nothing else says who sent it: not yet
    GOOD_SENDER = "good-sender"  # a trap hit by a domain whose other mail here is good: not listed
    NEVER_LIST = "never-list"  # a trap hit by one of never_list or an own domain: not listed
    LISTED = "listed"  # the client prefix or a proven d= is being punished
    OPEN_RECIPIENT = "open-recipient"  # listed, but postmaster@ and abuse@ are always open
    REPEAT_SENDER = "repeat-sender"  # came back over months and hit a trap on the way
    TRUSTED_RELAY = "trusted-relay"  # from a backup MX or a content filter
    UNSCANNED = "unscanned"  # over a header limit: accepted without a look
    TOO_LARGE = "too-large"  # over a limit and configured to refuse
    # Submissions and local mail
    SCRUBBED = "scrubbed"  # a submission, scrubbed
    RELAYED = "relayed"  # a submission that carries foreign mail: only our own hop was scrubbed
    LOCAL = "local"  # sendmail(1) mail left as it is
    OWN_USER_TRAP = "own-user-trap"  # one of ours mailed a trap: the account may be stolen
    UNVERIFIED_MTA = "unverified-mta"  # own Received cannot be replaced safely: 451
    SCRUB_IMPOSSIBLE = "scrub-impossible"  # a submission that cannot be scrubbed: 554
    # Not judged and not recorded
    SECOND_PASS = "second-pass"  # handed back by a content filter or list manager of ours
    # From an imported log
    MTA_REFUSED = "mta-refused"  # the MTA itself had refused it; no rule of ours was asked
    # Both
    INTERNAL_ERROR = "internal-error"  # a bug or a broken environment; the stance decided


@dataclass(frozen=True, slots=True)
class Reply:
    """An SMTP reply: code, enhanced status code (RFC 3463), text. The client reads the text."""

    code: int
    status: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.status} {self.text}"


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to a header, in the order in which it is carried out.

    `op` is delete, change or insert. For delete and change `index` counts fields of this name
    from 1, for insert it is the position in the whole header (0 is the top). `value` carries its
    own leading space (P_HDR_LEADSPC); it is None for delete.
    """

    op: str
    name: str
    index: int
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one message. `shadow` names the rules that would have decided otherwise."""

    action: Action
    reason: Reason
    reply: Reply | None = None
    shadow: tuple[Reason, ...] = ()
    drop_recipients: tuple[str, ...] = ()  # raw addresses that get no copy (trap.mixed)
    tag: bool = False  # mark the message for the user's own filter


# One text for each way to refuse. None of them says what the sender was refused for.
REFUSED = Reply(550, "5.7.1", "Message refused by policy")
NO_SUCH_USER = Reply(550, "5.1.1", "User unknown")
TRY_LATER = Reply(451, "4.7.1", "Please try again later")
NOT_CONFIGURED = Reply(451, "4.3.5", "Server configuration problem")
SCRUB_FAILED = Reply(554, "5.6.0", "Message header cannot be processed")
HEADER_TOO_LARGE = Reply(552, "5.3.4", "Message header exceeds the size limit")
INTERNAL = Reply(451, "4.3.0", "Temporary local problem, please try again later")
