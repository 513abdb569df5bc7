"""Evaluate one SPF record for one client (RFC 7208 4, check_host), with pyspf and our own DNS.

Pure except for the DNS queries. pyspf reads records, expands macros and compares addresses. Each of
its DNS queries goes through `ask`, so that the cache, the limits and the recording of `dns` apply,
and the look-ups are counted here.

Where this differs from pyspf: an error at PTR is no match (5.5), explanations (exp=) are not
fetched, because no reply quotes them, and the reason of an error is a stable word (`Why`). The
terms of a record are gone through here (`check0`): names of modifiers are read in any case, unknown
ones may stand twice (6), redirect= and %{p} cost a look-up only where they are used (4.6.4, 7.3),
and a record that includes itself fails only where the include is reached.
"""

import re
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import spf as pyspf

from gatepost_policy.dns import Ask
from gatepost_policy.mail.facts import SpfCheck

MAX_MECHANISM = 255  # characters of the term that are kept
# Limits for hostile records: the time of pyspf's expressions grows with the square of a term's
# length.
MAX_RECORD, MAX_TERMS, MAX_TERM = 8192, 512, 512
MAX_PTR = 10  # RFC 7208 4.6.4: names of a client that are looked at
MAX_NAME = 253
MAX_VOID = 2  # RFC 7208 4.6.4: look-ups that find nothing
# Macros whose value is not the same for every sender of a domain.
_PERSONAL = re.compile(r"%\{[slh]", re.I)
_CLIENT_NAME = re.compile(r"%\{p", re.I)
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=", re.I)
_INCLUDE = re.compile(r"([+?~-]?)include:(.+)", re.I | re.S)
# RFC 7208 7.1: a macro has its closing brace, and no number or one above 0.
_MACROS = re.compile(r"(?:[^%]|%[%_-]|%\{[a-z](?!0+[^0-9])\d{0,3}r?[-.+,/_=]*\})*", re.I)
# RFC 7208 4.3: a domain has several labels. A last label of digits is an address, not a name.
_LABEL = r"[^\x00-\x20.\\\x7f-\U0010ffff]{1,63}"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?!\d+\Z){_LABEL}")
_PART = r"[^\x00-\x1f.\\\x7f-\U0010ffff]{1,63}"
_NAME = re.compile(rf"{_PART}(?:\.{_PART})*")


# As pyspf reads one: the term, its mechanism, argument, prefix length, and a match's result.
_Directive = tuple[str, str, str, int, str]


class Why(StrEnum):
    """Why SPF could not be evaluated, beside the failures of DNS (`dns.Why`)."""

    SYNTAX = "syntax"  # a term of the record cannot be read
    SEVERAL = "several-records"  # more than one v=spf1 at a name
    LOOKUPS = "too-many-lookups"  # over 10 terms that ask DNS, or over 10 MX of one name
    VOID = "too-many-void-lookups"  # over 2 look-ups found nothing
    TOO_LONG = "record-too-long"  # over 8192 octets, 512 terms, or 512 characters in one of them
    MISSING = "no-record-included"  # include: or redirect= names a domain without a record


class Verdict:
    """The result of one evaluation. `until`: the monotonic time when its first DNS answer expires.

    `personal`: it depends on the local part or the HELO name, not on client and domain alone.
    """

    __slots__ = ("check", "personal", "until", "used")

    def __init__(
        self, check: SpfCheck, until: float, used: dict[tuple[str, str], Any], personal: bool
    ) -> None:
        self.check = check
        self.until = until
        self.used = used  # (name, type) -> the answer's form
        self.personal = personal


def is_domain(text: str) -> bool:
    """True where `text` (a canonical domain) can have an SPF record at all (RFC 7208 4.3)."""
    return len(text) <= 253 and _DOMAIN.fullmatch(text) is not None and text[:1] != "["


def evaluate(
    ask: Ask, client: IPv4Address | IPv6Address, domain: str, local: str, helo: str
) -> Verdict:
    """check_host() (RFC 7208 4) for mail of `local`@`domain` from `client`. Never raises."""
    query = _Query(ask, client, domain, local, helo)
    try:
        result = query.check()[0]
        mechanism = query.mechanism
        reason = str(query.why) if result in ("temperror", "permerror") else None
    except Exception:  # pyspf raises ValueError, IndexError and more on hostile records
        result, mechanism, reason = "permerror", None, Why.SYNTAX
    if mechanism is not None:
        mechanism = mechanism[:MAX_MECHANISM]
    check = SpfCheck(result, domain, mechanism, reason)
    return Verdict(check, query.until, query.used, query.personal)


class _Query(pyspf.query):  # type: ignore[misc]
    """pyspf's evaluation of one record; its DNS queries are replaced by ours."""

    def __init__(
        self, ask: Ask, client: IPv4Address | IPv6Address, domain: str, local: str, helo: str
    ) -> None:
        super().__init__(i=str(client), s=f"x@{domain}", h=helo)
        # Not split by pyspf: it takes the first @ of a quoted local part for the last.
        self.l, self.o = local or "postmaster", domain
        self.s = f"{self.l}@{domain}"
        self.ask = ask
        self.until = float("inf")
        self.used: dict[tuple[str, str], Any] = {}
        self.personal = False
        self.why: str = Why.SYNTAX

    def check_lookups(self) -> None:
        """One more term that asks DNS (RFC 7208 4.6.4)."""
        self.lookups += 1
        if self.lookups > pyspf.MAX_LOOKUP:
            raise self._permanent(Why.LOOKUPS)

    def get_explanation(self, spec: str) -> None:
        """No reply quotes the explanation, so it is not asked for."""

    def check0(self, spf: str | None, recursion: int) -> tuple[str, int, str]:
        """The result of the record `spf` of the domain `self.d`, in pyspf's form. Raises its
        PermError and TempError."""
        if not spf:
            return "none", 250, ""
        redirect: str | None = None
        once: set[str] = set()
        directives: list[_Directive] = []
        self.p: str | None = "unknown"  # %{p} is asked for where a term that has it is reached
        # RFC 7208 4.6: syntax errors anywhere in the record come before any match.
        for term in filter(None, spf.split(" ")[1:]):
            modifier = _MODIFIER.match(term)
            if modifier is None:
                directives.append(self._directive(term))
                continue
            name, value = modifier[1].lower(), term[modifier.end() :]
            if name not in ("redirect", "exp"):
                self.expand(value)  # RFC 7208 6: ignored, but a macro in it must be one
                continue
            target = self.expand_domain(value)
            if name in once or not target:
                raise self._permanent(Why.SYNTAX)  # RFC 7208 6: each once
            once.add(name)
            if name == "redirect":
                redirect = value
        self.p = None
        for directive in directives:
            if self._matches(directive, recursion):
                if not recursion:
                    self.mechanism = directive[0]
                return directive[4], 250, ""
        if redirect is None:
            return "neutral", 250, ""
        self.check_lookups()
        domain = self.expand_domain(redirect)
        record = self.dns_spf(domain)
        if record is None:
            raise self._permanent(Why.MISSING)
        found: tuple[str, int, str] = self.check1(record, domain, recursion)
        return found

    def _directive(self, term: str) -> _Directive:
        include = _INCLUDE.fullmatch(term)
        if include is None:
            read: _Directive = self.validate_mechanism(term)
            return read
        domain = self.expand_domain(include[2])
        if not domain:
            raise self._permanent(Why.SYNTAX)
        return term, "include", domain, self.cidrmax, pyspf.RESULTS[include[1] or "+"]

    def _matches(self, directive: _Directive, recursion: int) -> bool:
        """Whether the mechanism of this directive matches the client."""
        term, kind = directive[:2]
        if kind == "all":
            return True
        if "%" in term and _CLIENT_NAME.search(term):
            directive = self._directive(term)
        argument, length = directive[2:4]
        if kind in ("ip4", "ip6"):
            same = kind == ("ip4" if self.v == "in-addr" else "ip6")
            return same and bool(self.cidrmatch([argument], length))
        self.check_lookups()
        if kind == "include":
            result = self.check1(self.dns_spf(argument), argument, recursion + 1)[0]
            if result == "none":
                raise self._permanent(Why.MISSING)
            return bool(result == "pass")
        if kind == "exists":
            return bool(self.dns_a(argument, "A"))  # RFC 7208 5.7: A, whatever the client has
        if kind == "ptr":
            return bool(pyspf.domainmatch(self.validated_ptrs(), argument))
        found = self.dns_mx(argument) if kind == "mx" else self.dns_a(argument, self.A)
        return bool(self.cidrmatch(found, length))

    def expand(self, s: str, stripdot: bool = True) -> str:
        if not self.personal and "%" in s and _PERSONAL.search(s):
            self.personal = True
        text = str(super().expand(s, stripdot))
        while len(text) > MAX_NAME and "." in text:
            text = text.partition(".")[2]  # RFC 7208 7.3: labels go from the left until it fits
        return text

    def dns_spf(self, domain: str) -> str | None:
        self.why = Why.SEVERAL  # the only error that pyspf raises here
        found: str | None = super().dns_spf(domain)
        if found is not None:
            terms = found.split(" ")
            most = max(map(len, terms))
            if len(found) > MAX_RECORD or len(terms) > MAX_TERMS or most > MAX_TERM:
                raise self._permanent(Why.TOO_LONG)
            if not all(_MACROS.fullmatch(term) for term in terms if "%" in term):
                raise self._permanent(Why.SYNTAX)
        self.why = Why.MISSING if found is None else Why.SYNTAX
        return found

    def dns_mx(self, domainname: str) -> list[str]:
        names = self.dns(domainname, "MX")
        if len(names) > pyspf.MAX_MX:
            raise self._permanent(Why.LOOKUPS)
        # Sorted, so that the same records lead to the same look-ups in the same order.
        return [a for _, name in sorted(names) for a in self.dns_a(name, self.A)]

    def validated_ptrs(self) -> list[str]:
        """The client's names that lead back to it. RFC 7208 5.5: an error here is no match."""
        found = []
        try:
            names = self.dns_ptr(self.i)
        except pyspf.TempError:
            return []
        for name in sorted(names)[:MAX_PTR]:
            try:
                if self.cidrmatch(self.dns_a(name, self.A), self.cidrmax):
                    found.append(name)
            except pyspf.TempError:
                continue
        return found

    def dns(
        self, name: str, qtype: str, cnames: Any = None, ignore_void: bool = False
    ) -> list[Any]:
        """The records of `qtype` at `name`, as pyspf wants them. Raises its TempError where DNS
        failed, its PermError for a third look-up that finds nothing.
        """
        name = name.rstrip(".").lower()
        # RFC 7208 4.8: a name that cannot exist is not asked for.
        if len(name) > 253 or not _NAME.fullmatch(name):
            return []
        answer = self.ask(name, qtype)
        self.used[name, qtype] = answer.form
        self.until = min(self.until, answer.until)
        if answer.failed:
            self.why = str(answer.why)
            raise pyspf.TempError(self.why)
        if not answer.records:
            self.void_lookups += 1
            if self.void_lookups > MAX_VOID:
                raise self._permanent(Why.VOID)
        return [_VALUES[qtype](record) for record in answer.records]

    def _permanent(self, why: Why) -> Exception:
        self.why = why
        error: Exception = pyspf.PermError(str(why))
        return error


def _exchange(record: str) -> tuple[int, str]:
    preference, _, name = record.partition(" ")
    return int(preference) if preference.isdigit() else 0, name


_VALUES: dict[str, Any] = {
    "TXT": lambda record: (record.encode("utf-8", "surrogateescape"),),
    "MX": _exchange,
    "A": str,
    "AAAA": str,
    "PTR": lambda record: record.rstrip("."),
}
