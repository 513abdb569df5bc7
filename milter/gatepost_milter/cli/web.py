"""`milterctl web`: the live page, on loopback or a unix socket and nowhere else."""

import logging
import os
import signal
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli.common import UNREACHABLE, USAGE, App, Failure
from gatepost_policy.system import extras, sockets
from gatepost_policy.system.socket_address import SocketAddress

if TYPE_CHECKING:
    from flask import Flask

THREADS = 8  # requests at once; further ones wait for a turn


def _listen(context: click.Context, option: click.Parameter, text: str) -> SocketAddress:
    try:
        address = SocketAddress.parse(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}, got {text!r}") from None
    if address.kind != "unix" and not ip_address(address.host).is_loopback:
        # The page has no login: everybody who can connect can read who wrote to whom.
        raise click.BadParameter(
            "want a loopback address or a unix socket; use a proxy with a login"
        )
    return address


def _prefix(context: click.Context, option: click.Parameter, text: str) -> str:
    text = text.strip().rstrip("/")
    if text and (not text.startswith("/") or any(c in text for c in "?#% ") or "//" in text):
        raise click.BadParameter(f"want a path such as /gatepost, got {text!r}")
    return text


@click.command()
@click.option(
    "--listen",
    default="inet:8025@127.0.0.1",
    show_default=True,
    callback=_listen,
    metavar="SOCKET",
    help="A loopback address or a unix socket, in libmilter's notation.",
)
@click.option("--actions", is_flag=True, help="Allow to list, forgive, add traps and keep notes.")
@click.option("--host", "names", multiple=True, metavar="NAME",
              help="A host name by which a proxy calls this page; may be given again.")  # fmt: skip
@click.option("--prefix", default="", callback=_prefix, metavar="PATH",
              help="The path below which a proxy shows this page, such as /gatepost.")  # fmt: skip
@click.option("--user-header", metavar="FIELD",
              help="Where a proxy names the user: kept with what they do.")  # fmt: skip
@click.pass_obj
def command(
    app: App,
    listen: SocketAddress,
    actions: bool,
    names: tuple[str, ...],
    prefix: str,
    user_header: str | None,
) -> None:
    """The live page: search by sender, host and trap; read-only unless --actions is given."""
    try:
        import waitress  # noqa: F401  what `_serve` needs: found out before the page is made

        from gatepost_policy.web.app import create
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("flask", "flask_wtf", "waitress"):
            raise
        wanted = extras.install("web")
        raise Failure(f"the live page needs {error.name}, which is not installed: {wanted}", USAGE
                      ) from None  # fmt: skip

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    with app.opened() as engine:
        page = create(
            app.settings,
            lambda: engine,
            hosts=_hosts(listen, names),
            actions=actions,
            user_header=user_header,
        )
        _serve(page, listen, prefix, " (actions allowed)" if actions else "")


def _serve(page: "Flask", listen: SocketAddress, prefix: str, note: str) -> None:
    """Serve the page until TERM or INT, then end the process. Raises Failure."""
    from waitress.server import create_server

    where: dict[str, Any] = {"host": listen.host, "port": listen.port}
    if listen.kind == "unix":
        _make_way(listen)
        where = {"unix_socket": listen.path, "unix_socket_perms": "600"}
    # poll(2), since select(2) refuses descriptors from 1024 on, and nobody would be answered.
    where |= {"threads": THREADS, "ident": "gatepost", "asyncore_use_poll": True}
    try:
        server = create_server(page, url_prefix=prefix, **where)
    except OSError as error:
        problem = f"{listen}: {error.strerror or error}; another one: --listen SOCKET"
        raise Failure(problem, UNREACHABLE) from None
    mine = sockets.inode(listen.path) if listen.kind == "unix" else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same end as Ctrl-C
    print(f"ready {_url(listen, prefix)}{note}", flush=True)
    try:
        server.run()
    except KeyboardInterrupt:
        server.close()
    finally:
        if listen.kind == "unix":
            sockets.remove(listen.path, mine)
        logging.shutdown()
    os._exit(0)  # else waitress's threads keep the process alive until a request times out


def _make_way(listen: SocketAddress) -> None:
    """Remove a stale unix socket. Raises Failure where another process answers on it, or where the
    file is no socket."""
    try:
        sockets.remove_stale(listen.path)
    except OSError as error:
        raise Failure(f"{listen}: {error.strerror or error}", UNREACHABLE) from None
    if os.path.lexists(listen.path):
        there = sockets.inode(listen.path) is not None
        what = "another process answers there" if there else "there is a file, and it is no socket"
        raise Failure(f"{listen}: {what}; another one: --listen SOCKET", UNREACHABLE)


def _hosts(listen: SocketAddress, given: tuple[str, ...]) -> frozenset[str] | None:
    """The values of Host (RFC 9110 7.2) that are accepted; None: any (unix socket, no --host)."""
    named = frozenset(name.lower() for name in given)
    if listen.kind == "unix":
        return named or None
    return named | _own_hosts(listen)


def _own_hosts(listen: SocketAddress) -> frozenset[str]:
    names = {f"[{listen.host}]" if ":" in listen.host else listen.host, "localhost"}
    return frozenset(f"{name}:{listen.port}" for name in names) | (
        frozenset(names) if listen.port == 80 else frozenset()
    )


def _url(listen: SocketAddress, prefix: str) -> str:
    if listen.kind == "unix":
        return str(listen)
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"http://{host}:{listen.port}{prefix}/"
