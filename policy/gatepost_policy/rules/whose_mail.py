"""Whose mail a message is: from outside, from our own users, or made on this machine. Pure.

The milter, the policy service and the log importers all ask here. docs/flow.md has the order of the
questions. What the MTA says of the session decides, never what it leaves out: an absent macro
proves nothing. Mail without a login cannot be decided by the session alone: from the same address
comes mail that begins there and mail that others wrote. Then the answer is `open`, and
`trace.confirmed` decides once the header is complete.
"""

from dataclasses import dataclass

from gatepost_policy.config.settings import Submission
from gatepost_policy.mail.client_address import Ip, within
from gatepost_policy.mail.facts import Direction


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose mail it is.

    `trusted_relay`: it came from a backup MX or content filter, which is not listed for it.
    `second_hop`: it has been through our own proxy before (own_received = proxy). `second_pass`:
    gatepost has had it before, so nothing is done and nothing is recorded. `unknown_client`: the
    client only handed it in, and its sender is not known. `open`: `trace.confirmed` must confirm it
    from the header.
    """

    direction: Direction
    trusted_relay: bool = False
    second_hop: bool = False
    second_pass: bool = False
    unknown_client: bool = False
    open: bool = False


INBOUND = Ownership(Direction.INBOUND)
LOOPBACK = Ownership(Direction.INBOUND, open=True)
RELAYED = Ownership(Direction.INBOUND, trusted_relay=True, open=True)
HANDED_IN = Ownership(Direction.INBOUND, trusted_relay=True, unknown_client=True)
SECOND_PASS = Ownership(Direction.INBOUND, trusted_relay=True, second_pass=True)
SUBMITTED = Ownership(Direction.SUBMISSION)
ON_TRUST = Ownership(Direction.SUBMISSION, open=True)
SECOND_HOP = Ownership(Direction.SUBMISSION, second_hop=True)
LOCAL = Ownership(Direction.LOCAL, open=True)


def whose_mail(
    ours: Submission,
    *,
    address: Ip | None,
    local: bool = False,
    login: str | None = None,
    listener: str | None = None,
    submitted: bool = False,
) -> Ownership:
    """Whose mail it is.

    `address`: the client's. `local`: there is no client, only this machine (sendmail(1), a unix
    socket). `login`: as whom it authenticated. `listener`: what the MTA calls the listener
    (`{daemon_name}`, `policy_context`). `submitted`: the MTA says by other means that a user
    authenticated.
    """
    if ours.own_received == "proxy" and listener and listener == ours.proxy_daemon_name:
        return SECOND_HOP
    if listener and listener in ours.second_pass_names:
        return SECOND_PASS
    # Some MTAs send an empty {auth_authen} where nobody logged in.
    if login or submitted or (listener and listener in ours.daemon_names):
        return SUBMITTED
    if local:
        return LOCAL
    # Asked before the networks: a trusted relay within them is still a relay.
    if within(address, ours.trusted_relays):
        return RELAYED
    if within(address, ours.networks):
        return ON_TRUST
    # Loopback is this machine: a filter, a proxy, a list manager or anything else that runs here.
    return LOOPBACK if address is not None and address.is_loopback else INBOUND


def suspected(ours: Submission, *, login: str | None, listener: str | None) -> Ownership:
    """Whose mail it may be where `whose_mail` could not be asked (a fault of our own): a submission
    if anything hints at one, because a client address that leaked cannot be taken back.
    """
    if login or listener in ours.daemon_names or ours.networks or ours.own_received == "proxy":
        return SUBMITTED
    return INBOUND
