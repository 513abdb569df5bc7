"""A whole message through the standard library's parser, however deep it is nested. Pure.

That parser, and a walk over what it returns, call themselves for each part within a part, and end
in a RecursionError at some hundred of them. Mail to a trap may be made to do that.
"""

from email import message_from_bytes
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import Policy, compat32


def parsed(data: bytes, policy: "Policy[Message]" = compat32) -> Message:
    """The message `data`. Where its parts are nested too deep: its header, and the body in one
    piece.
    """
    try:
        found = message_from_bytes(data, policy=policy)
        for _ in found.walk():
            pass
    except RecursionError:
        return BytesHeaderParser(policy=policy).parsebytes(data)
    return found
