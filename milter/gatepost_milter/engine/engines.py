"""The two milter engines, by name: `milter.engine`.

`libmilter` needs pymilter and the C library; `native` needs neither, so nothing of the other one
is imported with it.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from gatepost_milter.engine.listener import Listener
from gatepost_milter.filter.context import Context
from gatepost_policy.config import ConfigError
from gatepost_policy.system import extras
from gatepost_policy.system.socket_address import SocketAddress

MODULES = {
    "libmilter": "gatepost_milter.engine.libmilter_worker",
    "native": "gatepost_milter.engine.native",
}


class Engine(Protocol):
    """What speaks the milter protocol with MTAs, and drives sessions with it."""

    def open_socket(self, address: SocketAddress) -> int:
        """The descriptor of a listening socket, opened before anybody is forked. Raises OSError."""
        ...

    def serve(
        self,
        context: Context,
        listener: Listener,
        control: int,
        report: Callable[[bytes], None],
    ) -> None:
        """Serve in a worker until the parent tells it on `control` to leave, and it has left its
        sessions in order. Reports `+` once it listens, `-` once it takes no more connections."""


def load(name: str) -> Engine:
    """The engine of this name. Raises ConfigError where it is not installed."""
    try:
        return cast(Engine, import_module(MODULES[name]))
    except ModuleNotFoundError as error:
        if error.name not in ("milter", "Milter"):
            raise
        raise ConfigError(
            'milter.engine = "libmilter": pymilter is not installed; either '
            f'{extras.install("libmilter")}, or set [milter] engine = "native"'
        ) from None
