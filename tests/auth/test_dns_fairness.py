"""One sender's dead domains cost nobody else a verdict: who may ask DNS how much at once."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from dkimkit import BODY, HEADER, RSA, Header, signature
from dnskit import Server, serving
from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim.verifier import Verifier
from gatepost_policy.dns import Answer, Asker, Lookups, Pending
from gatepost_policy.dns.fairness import (
    AUTHOR,
    FAILURES,
    FAILURES_SECONDS,
    POLICY,
    REST,
    Fairness,
    Place,
    place_of,
)

pytestmark = pytest.mark.slow


def asker(client: str | None = "192.0.2.1", author: str = "author.example") -> Asker:
    return Asker(None if client is None else ip_address(client), lambda: author)


def test_what_a_lookup_is_for() -> None:
    one = asker()
    assert one.share(None) == POLICY
    assert one.share("list.example") == REST
    assert one.share("mail.author.example") == AUTHOR
    assert one.share("author.example") == REST  # it had its own
    assert asker(author="").share("author.example") == REST


def test_places_are_shared_by_client_domain_and_need() -> None:
    fair = Fairness(100)
    clients = (f"192.0.2.{n % 250}" for n in range(10**6))

    def taken(wanted: Callable[[int], Place]) -> int:
        return sum(fair.take(wanted(n), 0.0) is not None for n in range(1000))

    def own(client: str, domain: str) -> Place:
        return place_of(asker(client, domain), f"s._domainkey.{domain}", domain)

    assert taken(lambda n: own("192.0.2.1", f"d{n}.a{n}.example")) == 10
    # A tenth for a domain, however many names and clients there are below it.
    fair = Fairness(100)
    assert taken(lambda n: own(next(clients), f"d{n}.dead.example")) == 10
    # A fifth for what is not the author's, and there is room for the author's beside it.
    fair = Fairness(100)
    assert taken(lambda n: place_of(asker(next(clients)), f"x{n}.test", f"x{n}.test")) == 20
    assert taken(lambda n: place_of(asker(next(clients)), f"y{n}.test", None)) == 40
    assert taken(lambda n: own(next(clients), f"z{n}.test")) == 100


def test_a_client_whose_lookups_fail_has_to_share() -> None:
    fair = Fairness(100)

    def once(now: float, failed: bool) -> str | None:
        place = fair.take(place_of(asker(), "k.author.example", "author.example"), now)
        if place is not None:
            fair.give_back(place, failed, now)
        return None if place is None else place.share

    assert [once(0.0, True) for _ in range(FAILURES)] == [AUTHOR] * FAILURES
    assert once(1.0, False) == REST
    assert once(1.0, False) == AUTHOR  # one answer more
    assert [once(1.0, True) for _ in range(3)] == [AUTHOR, AUTHOR, REST]
    assert once(2.0 + FAILURES_SECONDS, False) == AUTHOR
    other = fair.take(place_of(asker("192.0.2.2"), "k.author.example", "author.example"), 1.0)
    assert other is not None and other.share == AUTHOR


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    class World(dict[str, object]):
        """Every name below good... has a key, and below dead... nobody answers."""

        def get(self, name: str, default: object = None) -> object:
            if name.startswith("s1._domainkey.good"):
                return RSA.record
            return "silent" if "dead" in name else default

    with serving({}) as running:
        running.answers = World()
        yield running


def message(domain: str) -> Header:
    author = [(b"From", f" news@{domain}".encode()), *HEADER[1:]]
    return [signature(author, BODY, tags={"d": domain}), *author]


NAME, VALUE = signature(HEADER, BODY, tags={"d": "dead.example"})


def hostile(domain: str) -> Header:
    """Ten signatures of `domain`, under ten names."""
    value = VALUE.replace(b"dead.example", domain.encode())
    signed = [(NAME, value.replace(b"s=s1", b"s=x%d" % i)) for i in range(10)]
    return [*signed, (b"From", f" news@{domain}".encode()), *HEADER[1:]]


def results(verifier: Verifier, header: Header, client: str) -> list[tuple[str, str | None]]:
    from gatepost_policy.mail.address import header_from

    def author() -> str:
        found = header_from([value for name, value in header if name == b"From"])
        return "" if found is None else found.domain

    check = verifier.begin(1_790_000_000.0, None, Asker(ip_address(client), author))
    check.headers([(name.decode(), value.replace(b"\r\n", b"\n")) for name, value in header])
    check.end_of_headers()
    check.body(BODY)
    return [(s.result, s.reason) for s in check.finish().signatures]


@pytest.mark.parametrize("many_clients", [False, True])
@pytest.mark.parametrize("many_domains", [False, True])
@pytest.mark.timeout(120)
def test_honest_signatures_pass_beside_sixty_hostile_sessions(
    server: Server, many_clients: bool, many_domains: bool
) -> None:
    """Ten signatures a message under names that never answer; each session its own client and its
    own dead domain, where the attacker has that many."""
    own = Dkim(nameservers=(server.address,))
    verifier = Verifier(own, Lookups(own))
    stop = threading.Event()
    sent: Counter[int] = Counter()

    def attack(session: int) -> None:
        while not stop.is_set():
            sent[session] += 1
            number = f"{session}x{sent[session]}"
            domain = f"dead{number}.example" if many_domains else f"d{number}.dead.example"
            client = f"203.0.113.{session}" if many_clients else "203.0.113.9"
            for result, _ in results(verifier, hostile(domain), client):
                assert result == "temperror"
            time.sleep(0.2)  # seventy messages a second from sixty sessions, not more

    sessions = [threading.Thread(target=attack, args=(n,), daemon=True) for n in range(60)]
    for session in sessions:
        session.start()
    try:
        until = time.monotonic() + 60
        while sum(sent.values()) < 120 and time.monotonic() < until:
            time.sleep(0.05)
        good = [results(verifier, message(f"good{n}-{many_clients}-{many_domains}.example"),
                        "198.51.100.7") for n in range(23)]  # fmt: skip
    finally:
        stop.set()
        for session in sessions:
            session.join(20)
    assert good == [[("pass", None)]] * 23, Counter(str(one) for one in good)
    assert sum(sent.values()) > 100


def test_without_shares_they_do_not() -> None:
    """The counter-proof: the same number of dead look-ups, nobody to share with."""
    own = Dkim(nameservers=("127.0.0.1:9",), max_lookups=20)
    lookups = Lookups(own)
    lookups._run = lambda *_: None  # type: ignore[method-assign]
    asked = [lookups.ask(f"n{i}.dead{i}.example") for i in range(21)]
    assert [isinstance(one, Pending) for one in asked] == [True] * 20 + [False]
    last = asked[-1]
    assert isinstance(last, Answer) and last.why == "dns-busy"
