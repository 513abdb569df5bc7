"""Test the resolvers: do they answer, with EDNS, over TCP, and do they validate DNSSEC?

The question is `.` SOA with DO and AD set, once over UDP and once over TCP. The root is signed, so
a resolver that validates sets AD in its answer (RFC 4035 3.2.3, RFC 6840 5.7). All resolvers are
asked at the same time; each answer is waited for `SECONDS`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.resolver

from gatepost_milter.doctor.installation import Finding
from gatepost_policy.config.settings import Settings, nameserver

SECONDS = 3.0
WHAT = "dkim.nameservers"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one resolver can do. `answers`: it sent any answer over UDP."""

    answers: bool
    edns: bool = False
    tcp: bool = False
    validates: bool = False


def examine(settings: Settings) -> Iterator[Finding]:
    """A finding for each resolver that is in use."""
    try:
        places = _places(settings)
    except dns.resolver.NoResolverConfiguration:
        places = []
    if not places:
        yield Finding(
            WHAT, "/etc/resolv.conf", "names no resolver: no signature can be verified",
            'name one there, or in gatepost.toml: [dkim] nameservers = ["127.0.0.1"]',
        )  # fmt: skip
        return
    with ThreadPoolExecutor(max_workers=min(len(places), 8)) as pool:
        for (host, port), seen in zip(places, pool.map(_ask, places), strict=True):
            where = host if port == 53 else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if seen.answers:
                yield Finding(WHAT, f"{where} {_words(seen)}")
            else:
                yield Finding(
                    WHAT, where, f"does not answer within {SECONDS:.0f} s",
                    "look at the resolver, or take it out of "
                    + ("[dkim] nameservers" if settings.dkim.nameservers else "/etc/resolv.conf"),
                )  # fmt: skip


def _places(settings: Settings) -> list[tuple[str, int]]:
    if settings.dkim.nameservers:
        return [nameserver(text) for text in settings.dkim.nameservers]
    resolver = dns.resolver.Resolver()
    return [(str(server), resolver.port) for server in resolver.nameservers]


def _words(seen: Seen) -> str:
    edns = "EDNS" if seen.edns else "no EDNS (it is asked without)"
    tcp = "TCP" if seen.tcp else "no TCP (keys that do not fit one packet cannot be had)"
    dnssec = "validates DNSSEC" if seen.validates else "does not validate DNSSEC"
    return f"answers; {edns}, {tcp}, {dnssec}"


def _ask(place: tuple[str, int]) -> Seen:
    host, port = place
    found = _answer(dns.query.udp, host, port, edns=True)
    edns = found is not None and found.edns >= 0
    if found is None or not edns:
        # A server that does not know EDNS may not answer such a question at all.
        found = _answer(dns.query.udp, host, port, edns=False) or found
    if found is None:
        return Seen(False)
    tcp = _answer(dns.query.tcp, host, port, edns=edns)
    return Seen(True, edns, tcp is not None, bool(found.flags & dns.flags.AD))


def _answer(
    how: Callable[..., dns.message.Message], host: str, port: int, edns: bool
) -> dns.message.Message | None:
    query = dns.message.make_query(".", "SOA", use_edns=0 if edns else -1, want_dnssec=edns)
    query.flags |= dns.flags.AD
    try:
        return how(query, host, timeout=SECONDS, port=port)
    except (dns.exception.DNSException, OSError, EOFError):
        return None
