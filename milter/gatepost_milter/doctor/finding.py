"""One thing wrong with a mail server's set-up, and the line that puts it right."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from gatepost_milter.doctor.postfix_config import Postconf, PostfixConfig, Service
from gatepost_policy.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is a word that does not change between releases, `where` the file and service,
    `change` the line that corrects it: for the shell, or for the file that it names. `edits`: the
    same change for postconf, empty where postconf cannot make it."""

    code: str
    where: str
    problem: str
    change: str
    edits: tuple[Postconf, ...] = ()


def master(service: Service) -> str:
    """A service's place as a finding names it."""
    return f"master.cf, {service.name} {service.type}"


def place(service: Service | None, name: str) -> str:
    """The file (and service) in which the value of `name` for `service` is set."""
    if service is not None and name in service.overrides:
        return master(service)
    return "main.cf"


@dataclass(frozen=True, slots=True)
class Live:
    """A Postfix configuration and the gatepost settings that it is checked against."""

    config: PostfixConfig
    settings: Settings

    def mend(self, code: str, where: str, problem: str, edits: tuple[Postconf, ...]) -> Finding:
        """A finding that postconf can correct by `edits`."""
        return Finding(code, where, problem, typed(self.config, edits), edits)

    def joined(self, one: Finding, other: Finding) -> Finding:
        """One finding for the same fault in two places; its change corrects both."""
        edits = tuple(dict.fromkeys((*one.edits, *other.edits)))
        if edits == one.edits:
            return one
        where = f"{one.where} and {other.where.removeprefix('master.cf, ')}"
        return self.mend(one.code, where, one.problem, edits)

    def where_set(self, service: Service, name: str) -> Service | None:
        """The service to change so that `name` changes for it: itself, or None for main.cf."""
        return service if name in service.overrides else None


def typed(config: PostfixConfig, edits: Iterable[Postconf]) -> str:
    """`edits` as a person types them in a shell."""
    return " && ".join(
        shlex.join([*config.called, option, *(e.value for e in group)])
        for option, group in groupby(edits, key=lambda e: e.option)
    )
