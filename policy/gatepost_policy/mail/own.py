"""What the MTA and the network say is ours, beside the configuration. Pure values."""

from dataclasses import dataclass

from gatepost_policy.mail.client_address import IpNetwork


@dataclass(frozen=True, slots=True)
class Own:
    """Domains that the MTA takes mail for; networks and addresses of this site."""

    domains: tuple[str, ...] = ()
    networks: tuple[IpNetwork, ...] = ()


NOTHING_OWN = Own()
