"""Listings to be exported, and the text that a format makes of them."""

from collections.abc import Sequence

from from_table import from_table
from gatepost_policy import exporters
from gatepost_policy.config.settings import Settings
from gatepost_policy.listings.dossier import Entry, Proof

NOW = 1_790_000_000.0


OURS = from_table(
    Settings,
    {
        "submission": {
            "networks": ["10.0.0.0/8", "2001:db8:aaaa::/48"],
            "trusted_relays": ["198.51.100.9/32"],
        }
    },
)


def entry(value: str, kind: str = "prefix", until: float = NOW + 3_600, note: str = "") -> Entry:
    proof = Proof(NOW - 60, 1, "trap@home.example", "4Q1", "x@y.example", None)
    return Entry(kind, value, NOW - 60, until, "active", "trap", 3, False, note or None, (proof,))


HOSTILE = 'a"b\\c$d\n#e\x1b[31m;{}é' + "x" * 300


SOME = [
    entry("192.0.2.7/32"),
    entry("203.0.113.0/24", note=HOSTILE),
    entry("203.0.113.9/32"),  # lies in the one above
    entry("2001:db8:1:2::/64", until=NOW + 0.5),
    entry("sender.example", kind="dkim"),
    entry("x@y.example", kind="sender"),
    entry("2001:db8:9::/48", kind="promoted"),
]


WANTED = ["192.0.2.7", "203.0.113.0/24", "2001:db8:1:2::/64"]


def text(form: str, entries: Sequence[Entry] = SOME, settings: Settings = OURS) -> str:
    found = exporters.sort_out(entries, settings)
    if form in exporters.DOMAIN_FORMATS:
        lines = exporters.DOMAIN_FORMATS[form](found.domains, NOW, settings)
    else:
        lines = exporters.FORMATS[form](found.prefixes, NOW, settings)
    return "".join(f"{line}\n" for line in lines)
