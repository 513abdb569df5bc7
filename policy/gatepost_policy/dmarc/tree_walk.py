"""Walk up the DNS tree for DMARC records (RFC 9989 4.10): find the policy and the organisation.

Pure except for the DNS queries, which go through `ask`. No list of public suffixes is read: where
no record is found, a domain is its own organisation.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gatepost_policy.dmarc.record import Record, is_record, parse
from gatepost_policy.dns import Ask

# RFC 9989 4.10, step 4: a domain of many labels is cut to this many after the first query.
MAX_LABELS = 7
MAX_RECORDS = 16  # of one name that are read


@dataclass(frozen=True)
class Walk:
    """What was found from `domain` upwards: (name, record), the longest name first.

    `trouble` is the failure of DNS that ended the walk (None: it went to its end); `until` is the
    monotonic time in seconds when the first of its answers expires; `used` holds the answers by
    (name, type).
    """

    domain: str
    found: tuple[tuple[str, Record], ...]
    trouble: str | None
    until: float
    used: dict[tuple[str, str], Any]

    @cached_property
    def organisation(self) -> str | None:
        """The organisational domain (4.10.2), None where a failure of DNS leaves it unknown."""
        for name, record in self.found:
            if record.psd == "n":
                return name
            if record.psd == "y" and name != self.domain:
                labels = self.domain.split(".")
                return ".".join(labels[-len(name.split(".")) - 1 :])
        if self.trouble is not None:
            return None
        return self.found[-1][0] if self.found else self.domain

    @cached_property
    def applies(self) -> tuple[str, Record] | None:
        """The record whose policy applies and its name: the domain's own, else that of its
        organisation, else that of the public suffix above (4.10.1)."""
        organisation = self.organisation
        wanted = [self.domain, organisation]
        for place in wanted:
            for name, record in self.found:
                if name == place:
                    return name, record
        last = self.found[-1] if self.found else None
        return last if last is not None and last[1].psd == "y" else None


def walk(ask: Ask, domain: str) -> Walk:
    """Ask for the DMARC records of `domain` and of the names above it. Never raises."""
    found: list[tuple[str, Record]] = []
    used: dict[tuple[str, str], Any] = {}
    until, trouble = float("inf"), None
    for name in _names(domain):
        place = f"_dmarc.{name}"
        if len(place) > 253:
            continue
        answer = ask(place, "TXT")
        used[place, "TXT"] = answer.form
        until = min(until, answer.until)
        if answer.failed:
            trouble = str(answer.why)
            break
        texts = [text for text in answer.records[:MAX_RECORDS] if is_record(text)]
        if len(texts) != 1:
            continue  # several records count as none (RFC 9989 4.7)
        record = parse(texts[0])
        found.append((name, record))
        if record.psd != "u":
            break
    return Walk(domain, tuple(found), trouble, until, used)


def _names(domain: str) -> list[str]:
    labels = domain.split(".")
    names = [domain]
    above = labels[1:] if len(labels) <= MAX_LABELS else labels[-MAX_LABELS:]
    names += [".".join(above[n:]) for n in range(len(above))]
    return names
