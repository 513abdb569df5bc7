"""What our own MTA is about to write of itself: the `Received` that the scrub has to meet."""

from gatepost_milter.filter.context import Macros
from gatepost_milter.filter.transcript import Connection, Message
from gatepost_policy.scrub import Hop


def own_hop(
    connection: Connection, message: Message, macros: Macros, queue_id: str | None, can_edit: bool
) -> Hop:
    """The hop between the submitting client and this MTA, by the macros of the end of message.

    `can_edit`: the MTA has offered header edits, and leaves the octets of a value as they are.
    """
    return Hop(
        name=connection.mta_name or macros("j"),
        version=connection.mta_version or macros("v"),
        queue_id=queue_id,
        tls=macros("{tls_version}") is not None,
        authenticated=message.login is not None,
        smtputf8=message.smtputf8,
        proxy=message.whose.second_hop,
        can_edit=can_edit,
    )
