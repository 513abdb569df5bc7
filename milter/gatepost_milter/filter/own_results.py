"""The fields that gatepost adds to inbound mail: Authentication-Results and the tag header.

Fields from outside that use our authserv-id or tag name are deleted, ours are inserted on top. Pure
except for the table of answered queue ids, in which `unproven` looks.
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
from gatepost_policy.tracing import body_hash

NO_EDITS: tuple[Edit, ...] = ()
MAX_RECIPIENTS = 20  # of one message that are remembered
_BLANKS = b" \t\r\n"


class OwnResults:
    """The names that are ours. Made once, shared between threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tag_name = settings.sender.tag_header.lower()

    def marks(
        self, connection: Connection, message: Message, seen: Facts, decision: Decision
    ) -> tuple[Edit, ...]:
        """The edits: delete fields that claim to be ours, insert our own at the top.

        For mail of a trusted relay too: else forged results would only have to be sent by way of
        the backup MX. A tag header that comes from a trusted relay is kept: the relay may be our
        own content filter, and a forged tag would only harm its sender.
        """
        ours = self.authserv_id(connection)
        edits = forged(message, ours)
        if message.whose.unknown_client and not edits:
            return NO_EDITS  # from a machine of ours, and nothing in it claims to be our results
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
                ours, seen.signatures, seen.arc, author,
                spf=seen.spf, dmarc=seen.dmarc, bounce=not seen.sender.domain,
            )  # fmt: skip
        edits.append(Edit("insert", "Authentication-Results", 0, value))
        message.written = value
        return tuple(edits)

    def authserv_id(self, connection: Connection) -> str:
        """The authserv-id of our Authentication-Results (RFC 8601 2.5)."""
        return self.settings.dkim.authserv_id or connection.mta_name or "localhost"

    def own_fields(self, connection: Connection) -> OwnFields:
        """What to look for in a header that is over a limit."""
        limit = self.settings.milter.max_header_fields
        return OwnFields(self.authserv_id(connection), self.tag_name, limit)

    def disowned(self, connection: Connection, message: Message) -> tuple[Edit, ...]:
        """The edits for a message that passes without a verdict: forged results are deleted."""
        ours = self.authserv_id(connection)
        edits = forged(message, ours)
        if edits:
            value = authresults.unverified(ours)
            edits.append(Edit("insert", "Authentication-Results", 0, value))
        return tuple(edits)

    def unproven(
        self, connection: Connection, message: Message, known: AnsweredIds | None, stayed: bool
    ) -> tuple[Edit, ...]:
        """The edits for a message that seems to come back to us (a second pass).

        None where it has `stayed` on this machine or comes through `submission.second_pass_names`.
        Else the results in our name that we did not write are deleted: anybody can learn a queue
        id from the MTA's reply, write it into a Received field, and send that through a backup MX.
        What we wrote is known by that id, From, Date, Subject and Message-ID, and by the body or
        the recipients: a reader of ours could send what they got to others with another text. A
        filter may add to the text, a list manager may change who gets it; who does both, without
        `second_pass_names`, loses the results.
        """
        if stayed or connection.daemon_name in self.settings.submission.second_pass_names:
            return NO_EDITS
        ours = self.authserv_id(connection)
        host, at = connection.mta_name or "", message.at
        hops = [received.read(value) for value in message.values("received")[: trace.TOP]]
        ids = [hop.queue_id for hop in hops if hop.queue_id]
        values = message.values(RESULTS)
        if message.hashed is not None:
            message.body_hash = body_hash(message.hashed)

        def written(value: bytes) -> bool:
            if known is None:
                return False
            for queue_id in ids:
                body, *each = [known.knows(host, p, at) for p in proofs(queue_id, message, value)]
                if body or (each and all(each) and len(each) == len(message.recipients)):
                    return True
            return False

        gone = [k for k in authresults.forged(values, ours) if not written(values[k - 1])]
        if not gone:
            return NO_EDITS
        edits = [Edit("delete", "Authentication-Results", k) for k in reversed(gone)]
        if len(gone) == len(authresults.forged(values, ours)):
            value = authresults.unverified(ours)
            edits.append(Edit("insert", "Authentication-Results", 0, value))
        return tuple(edits)


def forged(message: Message, *ours: str) -> list[Edit]:
    """The edits that delete each Authentication-Results whose authserv-id is one of `ours`."""
    # RFC 8601 5: a border MTA removes every field that claims its own authserv-id.
    indexes: Sequence[int]
    if message.beyond is not None:
        indexes = message.beyond.claimed
    else:
        values = message.values(RESULTS)
        claimed = (authresults.forged(values, name) for name in ours) if values else ()
        indexes = sorted({index for found in claimed for index in found})
    # Highest index first: deleting one renumbers those below it.
    return [Edit("delete", "Authentication-Results", k) for k in reversed(indexes)]


def proofs(queue_id: str, message: Message, results: bytes) -> list[str]:
    """Texts to recognise `results` that we wrote for `message` under `queue_id`. Each holds a
    digest of them and of From, Date, Subject and Message-ID, all without blanks and folds. The
    first one is for its body, the others are for its recipients, `MAX_RECIPIENTS` at most."""
    digest = blake2b(results.translate(None, _BLANKS), digest_size=16)
    for name in ("from", "date", "subject", "message-id"):
        for value in message.values(name):
            digest.update(b"\n" + value.translate(None, _BLANKS))
        digest.update(b"\0")
    told = f"{queue_id} {digest.hexdigest()}"
    body = (message.body_hash or b"").hex()
    to = [r.address.key for r in message.recipients[:MAX_RECIPIENTS]]
    return [f"{told} {body}", *(f"{told} <{key}>" for key in to)]
