"""The `Received` that our own MTA is about to write: the scrub works out its text beforehand."""

from gatepost_milter.filter.context import Macros
from gatepost_milter.filter.transcript import Connection, Message
from gatepost_policy.scrub import Hop


def own_hop(
    connection: Connection, message: Message, macros: Macros, queue_id: str | None, can_edit: bool
) -> Hop:
    """What our MTA's own Received will say, by the macros at the end of the message.

    `can_edit`: the MTA has offered header edits, and does not change the blanks of a value.
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
