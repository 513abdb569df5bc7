"""The SMTP client as an MTA announces it at connect (SMFIC_CONNECT)."""

from gatepost_policy.mail.message_dataclass import dataclass

UNIX, INET, INET6, UNKNOWN = "L", "4", "6", "U"  # SMFIA_*


@dataclass(frozen=True, slots=True)
class Peer:
    """The client's host name, address family (one of SMFIA_*), port and address.

    `address` is an IP address, or the path of a unix socket; empty where the family is unknown.
    """

    name: str
    family: str
    port: int = 0
    address: str = ""
