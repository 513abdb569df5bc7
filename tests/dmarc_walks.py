"""Tree walks (RFC 9989 4.10): zones and what must be found in them. No test: data for tests.

Each case: a name, the zone (below `_dmarc.` where the name does not say otherwise), the author's
domain, its organisation, where the policy comes from and what it is (None: there is none).
"""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One walk and what must come of it."""

    name: str
    zone: dict[str, Any]
    domain: str
    organisation: str
    place: str | None
    policy: str | None


R, Q, N = "v=DMARC1; p=reject", "v=DMARC1; p=quarantine", "v=DMARC1; p=none"
NINE = "a.b.c.d.e.f.g.h.example"

CASES = (
    Case("own record", {"example.com": R}, "example.com", "example.com", "example.com", "reject"),
    Case("no record at all", {}, "mail.example.com", "mail.example.com", None, None),
    Case("no record, single label", {}, "localhost", "localhost", None, None),
    Case("single label with a record", {"internal": R}, "internal", "internal", "internal",
         "reject"),
    Case("the parent's", {"example.com": R}, "mail.example.com", "example.com", "example.com",
         "reject"),
    Case("the parent's, by sp", {"example.com": R + "; sp=none"}, "mail.example.com",
         "example.com", "example.com", "none"),
    Case("sp is not for the domain itself", {"example.com": R + "; sp=none"}, "example.com",
         "example.com", "example.com", "reject"),
    Case("a record in between is no policy", {"example.com": N, "b.example.com": R},
         "a.b.example.com", "example.com", "example.com", "none"),
    Case("own record, organisation above", {"example.com": N, "b.example.com": R},
         "b.example.com", "example.com", "b.example.com", "reject"),
    Case("psd=n draws the line", {"example.com": N, "b.example.com": R + "; psd=n"},
         "a.b.example.com", "b.example.com", "b.example.com", "reject"),
    Case("psd=n at the author", {"example.com": N, "b.example.com": Q + "; psd=n"},
         "b.example.com", "b.example.com", "b.example.com", "quarantine"),
    Case("psd=y above, record below it", {"bank": R + "; psd=y", "example.bank": Q},
         "mail.example.bank", "example.bank", "example.bank", "quarantine"),
    Case("psd=y alone", {"bank": R + "; psd=y"}, "mail.example.bank", "example.bank", "bank",
         "reject"),
    Case("psd=y alone, right below", {"bank": R + "; psd=y"}, "example.bank", "example.bank",
         "bank", "reject"),
    Case("psd=y with sp", {"bank": R + "; psd=y; sp=quarantine"}, "example.bank", "example.bank",
         "bank", "quarantine"),
    Case("psd=y of two labels", {"gov.uk": R + "; psd=y"}, "mail.city.gov.uk", "city.gov.uk",
         "gov.uk", "reject"),
    Case("psd=y of two labels, record above it ignored",
         {"uk": N, "gov.uk": R + "; psd=y"}, "city.gov.uk", "city.gov.uk", "gov.uk", "reject"),
    Case("the suffix writes mail itself", {"gov.uk": R + "; psd=y"}, "gov.uk", "gov.uk", "gov.uk",
         "reject"),
    Case("the suffix writes mail itself, record above", {"uk": N, "gov.uk": R + "; psd=y"},
         "gov.uk", "gov.uk", "gov.uk", "reject"),
    Case("a record at a top level without psd", {"com": R}, "example.com", "com", "com", "reject"),
    Case("psd=u is as if not said", {"example.com": R + "; psd=u"}, "a.example.com",
         "example.com", "example.com", "reject"),
    Case("psd of nonsense is as if not said", {"example.com": R + "; psd=z", "com": N},
         "a.example.com", "com", "com", "none"),
    Case("a parent without a record is passed over", {"example.com": R},
         "a.b.c.example.com", "example.com", "example.com", "reject"),
    Case("seven labels", {"b.c.d.e.f.example": R}, "a.b.c.d.e.f.example", "b.c.d.e.f.example",
         "b.c.d.e.f.example", "reject"),
    Case("eight labels: the next has seven", {"b.c.d.e.f.g.example": R}, "a.b.c.d.e.f.g.example",
         "b.c.d.e.f.g.example", "b.c.d.e.f.g.example", "reject"),
    Case("nine labels: the one of eight is not asked", {"b.c.d.e.f.g.h.example": R}, NINE, NINE,
         None, None),
    Case("nine labels: the one of seven is", {"c.d.e.f.g.h.example": R}, NINE,
         "c.d.e.f.g.h.example", "c.d.e.f.g.h.example", "reject"),
    Case("nine labels: the author's own", {NINE: R}, NINE, NINE, NINE, "reject"),
    Case("two records are none", {"a.example.com": [R, Q], "example.com": N}, "a.example.com",
         "example.com", "example.com", "none"),
    Case("two records at the only place", {"example.com": [R, Q]}, "example.com", "example.com",
         None, None),
    Case("another record beside it", {"example.com": ["v=spf1 -all", R]}, "example.com",
         "example.com", "example.com", "reject"),
    Case("another version", {"a.example.com": "v=DMARC2; p=reject", "example.com": Q},
         "a.example.com", "example.com", "example.com", "quarantine"),
    Case("the tag of the version in a capital (RFC 5234 2.3)",
         {"example.com": "V = DMARC1; p=reject"}, "example.com", "example.com", "example.com",
         "reject"),
    Case("the version in small letters", {"example.com": "v=dmarc1; p=reject"}, "example.com",
         "example.com", None, None),
    Case("v= is not first", {"example.com": "p=reject; v=DMARC1"}, "example.com", "example.com",
         None, None),
    Case("blanks around the version", {"example.com": "v = DMARC1 ; p = reject"}, "example.com",
         "example.com", "example.com", "reject"),
    Case("no p= is p=none", {"example.com": "v=DMARC1; rua=mailto:a@example.com"}, "example.com",
         "example.com", "example.com", "none"),
    Case("np for what does not exist", {"example.com": N + "; np=reject", ".no.example.com": None},
         "no.example.com", "example.com", "example.com", "reject"),
    Case("np is not for what exists",
         {"example.com": N + "; np=reject", ".yes.example.com": "some text"}, "yes.example.com",
         "example.com", "example.com", "none"),
    Case("np is not for a name that has other types only",
         {"example.com": N + "; np=reject", ".yes.example.com": {"A": "192.0.2.1"}},
         "yes.example.com", "example.com", "example.com", "none"),
    Case("no np: sp for what does not exist",
         {"example.com": R + "; sp=quarantine", ".no.example.com": None}, "no.example.com",
         "example.com", "example.com", "quarantine"),
    Case("np of a suffix, for an organisation that does not exist",
         {"bank": "v=DMARC1; p=none; sp=quarantine; np=reject; psd=y", ".no.bank": None},
         "no.bank", "no.bank", "bank", "reject"),
    Case("an unknown tag", {"example.com": R + "; pct=0; x=y"}, "example.com", "example.com",
         "example.com", "reject"),
)  # fmt: skip


def zone_of(case: Case) -> dict[str, Any]:
    """The whole zone: `.name` is the name itself, every other one stands below `_dmarc.`."""
    return {
        name[1:] if name.startswith(".") else f"_dmarc.{name}": form
        for name, form in case.zone.items()
    }
