"""`milterctl notify`: tell people about events; runs in its own process beside the services."""

import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import click

from gatepost_milter.cli.common import FINDINGS, UNREACHABLE, USAGE, App, Failure, catch_up

if TYPE_CHECKING:
    from gatepost_policy.monitoring.maillog import MailLog
    from gatepost_policy.notify import Round

LOOK_S = 5.0
COMPLAIN_S = 60.0


@click.command(short_help="Tell people about events: command, webhook, mail, feed.")
@click.option("--once", is_flag=True, help="One round, for a timer; then end.")
@click.option(
    "--test", "trying", is_flag=True, help="Send a test every way, and say what came of it."
)
@click.pass_obj
def command(app: App, /, once: bool, trying: bool) -> None:
    """Tell people about events, as [notify] says: with a command, a webhook, mail, an Atom feed.

    Events: trap-hit (by a proven sender), sender-back (somebody known, after a week or more),
    own-user (a user of ours wrote to a trap), loss (of records), probe-failed (a privacy test
    that was not clean), and a digest a day. The first run begins with what comes then. How far
    it has come is in the store: after an end of any kind it goes on there, on any host.

    \b
    milterctl notify --test
    milterctl notify --once
    """
    from gatepost_policy import notify
    from gatepost_policy.monitoring.maillog import MailLog

    settings = app.settings.notify
    if not (notify.configured(settings) or settings.feed):
        keys = "notify.command, notify.webhook, notify.mail_to or notify.feed"
        raise Failure(f"notify: nobody to tell: set {keys}", USAGE)
    if trying:
        raise SystemExit(_test(app))
    with app.opened() as engine:
        log = MailLog(app.settings.log)
        found = notify.Round(
            engine,
            app.settings,
            socket.gethostname(),
            lambda at, text: log.event(at, "notify", text=text),
        )
        if once:
            catch_up(app, engine)
            found.once()
            return
        _follow(found, log)


def _test(app: App) -> int:
    from gatepost_policy import notify

    said = notify.test(app.settings.notify, time.time())
    for way, why in said.items():
        print(f"{way}: told" if not why else f"{way}: NOT told: {why}")
    if not said:
        print("feed: written with every round; nothing to test")
    return FINDINGS if any(said.values()) else 0


def _follow(found: "Round", log: "MailLog") -> None:
    from gatepost_policy.store import StoreError
    from gatepost_policy.system import systemd

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def alive() -> None:
        systemd.notify("WATCHDOG=1")

    complained, at, ready = "", 0.0, False
    while not stop.is_set():
        alive()
        try:
            if not ready:
                # Stores the place from which events are told, so that later ones are told even if
                # this process ends at once.
                found.look()
                ready = True
                print("milterctl notify ready", flush=True)
                systemd.notify("READY=1")
            found.once(alive)
        except StoreError as error:
            if not error.temporary:
                raise Failure(str(error), UNREACHABLE) from None
            now = time.monotonic()
            if str(error) != complained or now - at > COMPLAIN_S:
                complained, at = str(error), now
                log.event("error", "notify", text=f"{error}; tried again")
        stop.wait(LOOK_S)
    systemd.notify("STOPPING=1")
