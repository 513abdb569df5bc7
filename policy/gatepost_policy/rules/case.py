"""One trap hit, for `blame`: what is proven, who the client is, what the message says. Pure.

`Case` computes what several classes ask for. It decides nothing.
"""

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.address import Address, within_any
from gatepost_policy.mail.client_address import within
from gatepost_policy.mail.facts import Facts, Signature
from gatepost_policy.mail.organisation import organisation, same
from gatepost_policy.mail.real_address import is_teredo, names_nobody, real
from gatepost_policy.rules.known import DAY_S, EarlierHit, Good, Known, Past, Signer

# SRS and similar schemes: the client forwards what others wrote, with a sender of its own.
_REWRITTEN = re.compile(r"srs[01][=+-]|[^@]*\+(?:srs|caf_)=", re.I)


def is_forwarder(sender: Address) -> bool:
    """True for an envelope sender rewritten by SRS or the like (Microsoft's, Gmail's)."""
    return _REWRITTEN.match(sender.local) is not None


@lru_cache(maxsize=4)
def _networks(names: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    """The addresses and networks among the names of never_list."""
    found: list[IPv4Network | IPv6Network] = []
    for name in names:
        try:
            found.append(ip_network(name, strict=False))
        except ValueError:
            continue
    return tuple(found)


class Case:
    """The facts of one trap hit, and answers that more than one class needs. `today` is the UTC day
    number.
    """

    def __init__(self, facts: Facts, known: Known, settings: Settings) -> None:
        self.facts, self.known, self.settings = facts, known, settings
        self.today = int(facts.at // DAY_S)

    # Who is proven

    @cached_property
    def aligned(self) -> tuple[str, ...]:
        """The d= that are proven and aligned."""
        return self.facts.aligned_domains()

    @cached_property
    def punishable(self) -> tuple[str, ...]:
        """Those of `aligned` that may be listed: neither on never_list nor our own.

        A mail service signs beside its customer: where only the service is protected, the
        customer's own d= may still be listed.
        """
        return tuple(d for d in self.aligned if not self.protects(d))

    def signatures(self, domain: str) -> Iterable[Signature]:
        """The proven signatures of this d=."""
        return (s for s in self.facts.signatures if s.domain == domain and s.proven)

    def protects(self, domain: str) -> bool:
        """True for a domain that is on never_list or our own."""
        return self.is_own(domain) or self.is_service(domain)

    def is_own(self, domain: str) -> bool:
        """True for our own domains, configured or the MTA's."""
        own = within_any(self.settings.sender.own_domains), within_any(self.known.own.domains)
        return any(within(domain) for within in own)

    def is_service(self, domain: str) -> bool:
        """True for a domain on never_list."""
        return within_any(self.settings.sender.never_list)(domain)

    # The client

    @property
    def client_is_ours(self) -> bool:
        """True where the client's address identifies no host of the Internet, or is this site's
        own.
        """
        ip = self.facts.client.address
        if ip is None or is_teredo(ip):
            return False
        return names_nobody(ip) or within(real(ip), self.known.own.networks)

    @property
    def prefix(self) -> str | None:
        """The client's prefix (/32 or /64); None where no client can be listed."""
        ip = self.facts.client.address
        return None if ip is None or names_nobody(ip) else self.facts.client.prefix

    @property
    def client_is_service(self) -> bool:
        """True where the client itself must not be listed.

        Its network is on never_list, our own or a trusted relay's; its verified name is on
        never_list or our own; or its SPF domain is on never_list.
        """
        settings = self.settings
        ip, name = self.facts.client.address, self.facts.client.name
        networks = settings.submission.networks + settings.submission.trusted_relays
        networks += _networks(settings.sender.never_list)
        if ip is not None and within(real(ip), networks):
            return True
        if name is not None and self.protects(name.rstrip(".").lower()):
            return True
        spf = self.facts.spf_domain
        return spf is not None and self.is_service(spf)

    @property
    def host(self) -> str | None:
        """The organisation of the client's verified name."""
        name = self.facts.client.name
        return None if name is None else organisation(name.rstrip(".").lower())

    @property
    def client_is_shared(self) -> bool:
        """True where the client has brought enough good mail of others (`Good.counts`)."""
        past = self.past
        return past is not None and past.client.counts(self.settings.sender.good_messages)

    def same_host(self, earlier: EarlierHit) -> bool:
        """True where `earlier` came from this client or another one of its organisation.

        Large senders retry from several addresses: in the same /24 or /64, or with host names of
        the same organisation.
        """
        prefix = self.facts.client.prefix
        if earlier.prefix is not None and prefix is not None:
            if earlier.prefix == prefix:
                return True
            mine, other = prefix.rpartition(".")[0], earlier.prefix.rpartition(".")[0]
            if mine and mine == other:  # IPv4: the first three octets
                return True
        return self.host is not None and self.host == earlier.host

    # What the message says

    def elsewhere(self, domain: str) -> bool:
        """True where the envelope sender is of another organisation than `domain`."""
        sender = self.facts.sender
        return bool(sender.domain) and not same(sender.domain, domain)

    @property
    def spf(self) -> str | None:
        """SPF's result for the envelope sender; None where it was not looked at."""
        spf = self.facts.spf
        return None if spf is None else spf.mail_from.result

    def spf_passes(self, domain: str) -> bool:
        """True where SPF says that this client may send for `domain`'s organisation."""
        found = self.facts.spf_domain
        return found is not None and same(found, domain)

    # What was before

    @property
    def past(self) -> Past | None:
        """What the store knows; None where it could not be asked."""
        return self.known.past

    def signer(self, domain: str) -> Signer:
        """The history of `domain`'s organisation."""
        return (
            _NOBODY if self.past is None else self.past.signers.get(organisation(domain), _NOBODY)
        )

    def hits(self, whose: str) -> tuple[EarlierHit, ...]:
        """Earlier hits of an organisation or a prefix, newest first."""
        return () if self.past is None else self.past.hits.get(whose, ())

    @property
    def whose(self) -> tuple[str, ...]:
        """Whose hit this is: the organisations of the punishable d=, else the client prefix."""
        orgs = tuple(dict.fromkeys(organisation(d) for d in self.punishable))
        if orgs or self.aligned or self.prefix is None:
            return orgs
        return (self.prefix,)


_NOBODY = Signer(Good())
