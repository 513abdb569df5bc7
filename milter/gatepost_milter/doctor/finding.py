"""One thing wrong with a mail server's set-up, and the line that puts it right."""

from dataclasses import dataclass

from gatepost_milter.doctor.postfix_config import PostfixConfig, Service
from gatepost_policy.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is a stable word, `where` the file and service, `change` the line as it should be."""

    code: str
    where: str
    problem: str
    change: str


def master(service: Service) -> str:
    """Where a service stands."""
    return f"master.cf, {service.name} {service.type}"


def place(service: Service | None, name: str) -> str:
    """Where the value of `name` that holds for `service` is set."""
    if service is not None and name in service.overrides:
        return master(service)
    return "main.cf"


@dataclass(frozen=True, slots=True)
class Live:
    """One configuration under one gatepost.toml."""

    config: PostfixConfig
    settings: Settings
