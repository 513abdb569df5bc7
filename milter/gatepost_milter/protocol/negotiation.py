"""The milter protocol's negotiation: what we want of an MTA, and what its offer allows. Pure.

Only RCPT (where traps are refused there) and the end of message are answered; everything else is
negotiated as "no reply", which halves the cost of a message. That goes for the body too: an answer
to each chunk costs a tenth of a large message. SKIP is such an answer, so it is used only with an
MTA that does not offer "no reply" for the body.
"""

from gatepost_milter.protocol.constants import (
    SMFIF_ADDHDRS,
    SMFIF_CHGHDRS,
    SMFIF_DELRCPT,
    SMFIP_HDR_LEADSPC,
    SMFIP_NODATA,
    SMFIP_NOEOH,
    SMFIP_NOUNKNOWN,
    SMFIP_NR_BODY,
    SMFIP_NR_CONN,
    SMFIP_NR_EOH,
    SMFIP_NR_HDR,
    SMFIP_NR_HELO,
    SMFIP_NR_MAIL,
    SMFIP_NR_RCPT,
    SMFIP_RCPT_REJ,
    SMFIP_SKIP,
)
from gatepost_policy.mail.message_dataclass import dataclass

EDITING = SMFIF_ADDHDRS | SMFIF_CHGHDRS
WANTED_ACTIONS = EDITING | SMFIF_DELRCPT
# `choose` adds SMFIP_NR_RCPT where no recipient is refused at RCPT.
WANTED_STEPS = (
    SMFIP_NR_CONN
    | SMFIP_NR_HELO
    | SMFIP_NR_MAIL
    | SMFIP_NR_HDR
    | SMFIP_NOEOH
    | SMFIP_NR_BODY
    | SMFIP_NODATA
    | SMFIP_NOUNKNOWN
    | SMFIP_SKIP
    | SMFIP_RCPT_REJ
    | SMFIP_HDR_LEADSPC
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What an MTA offers, or what was agreed on: SMFIF_* and SMFIP_* bits."""

    actions: int
    steps: int

    @property
    def edits(self) -> bool:
        """True where header fields may be added and changed."""
        return self.actions & EDITING == EDITING

    @property
    def drops_recipients(self) -> bool:
        """True where recipients may be taken away."""
        return self.actions & SMFIF_DELRCPT != 0

    @property
    def leading_space(self) -> bool:
        """True where header values are sent, both ways, with the blanks after the colon. Else the
        MTA removes one space from each value, and puts one before each value that we send."""
        return self.steps & SMFIP_HDR_LEADSPC != 0

    @property
    def skips_body(self) -> bool:
        """True where a body chunk is answered, and the answer may be that no more are wanted."""
        return self.steps & (SMFIP_SKIP | SMFIP_NR_BODY) == SMFIP_SKIP


# An MTA of the first protocol version does not negotiate: it can edit, and waits for each answer.
UNASKED = Offer(EDITING, 0)


def choose(offered: Offer, *, answers_rcpt: bool, over_tcp: bool) -> Offer:
    """What to agree on. `answers_rcpt`: a recipient may be refused at RCPT."""
    wanted = WANTED_STEPS
    if not answers_rcpt:
        wanted |= SMFIP_NR_RCPT
    if over_tcp:
        # Postfix's smtpd sends the envelope, then its cleanup sends the message: two writes
        # without an answer in between, and Nagle's algorithm keeps the second one back until
        # our delayed ACK, 40 ms. An answer to DATA carries the ACK.
        wanted &= ~SMFIP_NODATA
    if not offered.steps & wanted & SMFIP_NODATA:
        # libmilter takes no body and no end right after DATA: a message without a header
        # needs the end of the header.
        wanted = wanted & ~SMFIP_NOEOH | SMFIP_NR_EOH
    return Offer(offered.actions & WANTED_ACTIONS, offered.steps & wanted)
