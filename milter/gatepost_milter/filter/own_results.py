"""What gatepost writes into an inbound message in its own name, and what nobody else may.

Authentication-Results and the tag header: those from outside that bear our names are deleted, ours
stand on top. Pure but for the table of answered queue ids that `unproven` asks.
"""

from collections.abc import Sequence
from hashlib import blake2b

from gatepost_milter.filter.transcript import RESULTS, Connection, Message, OwnFields
from gatepost_policy.config.settings import Settings
from gatepost_policy.dkim import authresults
from gatepost_policy.mail import received
from gatepost_policy.mail.decision import Decision, Edit
from gatepost_policy.mail.facts import Facts
from gatepost_policy.rules import trace
from gatepost_policy.system.answered_ids import AnsweredIds

NO_EDITS: tuple[Edit, ...] = ()
_BLANKS = b" \t\r\n"


class OwnResults:
    """The names that are ours. Made once, shared between threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tag_name = settings.sender.tag_header.lower()

    def marks(
        self, connection: Connection, message: Message, seen: Facts, decision: Decision
    ) -> tuple[Edit, ...]:
        """Our Authentication-Results and tag at the top, after those that claim to be ours.

        Mail of a trusted relay gets them too: whoever wants to forge our results needs only the
        backup MX. Its tag stays: a tag punishes, and the relay may be our own content filter.
        """
        ours = self.authserv_id(connection)
        edits = forged(message, ours)
        if message.whose.unknown_client and not edits:
            return NO_EDITS  # handed in by our own: nothing of it is false, so nothing is touched
        if not seen.trusted_relay:
            tag = self.settings.sender.tag_header
            beyond = message.beyond
            count = len(message.values(self.tag_name)) if beyond is None else beyond.tags
            edits += [Edit("delete", tag, k) for k in range(count, 0, -1)]
            if decision.tag:
                edits.append(Edit("insert", tag, 0, f" {decision.reason}"))
        if message.over_limit is not None:
            value = authresults.unverified(ours)
        else:
            author = "" if seen.header_from is None else seen.header_from.domain
            value = authresults.value(
                ours, seen.signatures, seen.arc, author, spf=seen.spf, dmarc=seen.dmarc
            )
        edits.append(Edit("insert", "Authentication-Results", 0, value))
        message.written = value
        return tuple(edits)

    def authserv_id(self, connection: Connection) -> str:
        """The name that our Authentication-Results bear (RFC 8601 2.5)."""
        return self.settings.dkim.authserv_id or connection.mta_name or "localhost"

    def own_fields(self, connection: Connection) -> OwnFields:
        """What to look for in a header that is over a limit."""
        limit = self.settings.milter.max_header_fields
        return OwnFields(self.authserv_id(connection), self.tag_name, limit)

    def disowned(self, connection: Connection, message: Message) -> tuple[Edit, ...]:
        """The edits for a message that passes without a verdict: nothing forged stays."""
        ours = self.authserv_id(connection)
        edits = forged(message, ours)
        if edits:
            value = authresults.unverified(ours)
            edits.append(Edit("insert", "Authentication-Results", 0, value))
        return tuple(edits)

    def unproven(
        self, connection: Connection, message: Message, known: AnsweredIds | None
    ) -> tuple[Edit, ...]:
        """What a second pass loses: nothing where it comes from this machine or by a listener of
        its own, else the results in our name that are not those we wrote.

        Anybody may learn a queue id from our answer, write it into a Received field, and send that
        by way of a backup MX. What he cannot do is to make us have written his results, for the
        same author, date, subject and Message-ID, under that id.
        """
        address = connection.client.address
        names = self.settings.submission.second_pass_names
        if address is None or address.is_loopback or connection.daemon_name in names:
            return NO_EDITS
        ours = self.authserv_id(connection)
        host, at = connection.mta_name or "", message.at
        hops = [received.read(value) for value in message.values("received")[: trace.TOP]]
        ids = [hop.queue_id for hop in hops if hop.queue_id]
        values = message.values(RESULTS)

        def written(value: bytes) -> bool:
            return known is not None and any(
                known.knows(host, token(queue_id, message, value), at) for queue_id in ids
            )

        gone = [k for k in authresults.forged(values, ours) if not written(values[k - 1])]
        if not gone:
            return NO_EDITS
        edits = [Edit("delete", "Authentication-Results", k) for k in reversed(gone)]
        if len(gone) == len(authresults.forged(values, ours)):
            value = authresults.unverified(ours)
            edits.append(Edit("insert", "Authentication-Results", 0, value))
        return tuple(edits)


def forged(message: Message, *ours: str) -> list[Edit]:
    """The edits that delete what claims to be by one of `ours`."""
    # RFC 8601 5: a border MTA removes every field that claims its own authserv-id.
    indexes: Sequence[int]
    if message.beyond is not None:
        indexes = message.beyond.claimed
    else:
        values = message.values(RESULTS)
        claimed = (authresults.forged(values, name) for name in ours) if values else ()
        indexes = sorted({index for found in claimed for index in found})
    # Highest first: deleting one renumbers those below it.
    return [Edit("delete", "Authentication-Results", k) for k in reversed(indexes)]


def token(queue_id: str, message: Message, results: bytes) -> str:
    """What is remembered of results that were written for a message: blanks and folds apart."""
    digest = blake2b(results.translate(None, _BLANKS), digest_size=16)
    for name in ("from", "date", "subject", "message-id"):
        for value in message.values(name):
            digest.update(b"\n" + value.translate(None, _BLANKS))
        digest.update(b"\0")
    return f"{queue_id} {digest.hexdigest()}"
