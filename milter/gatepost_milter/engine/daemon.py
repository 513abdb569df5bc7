"""gatepost-milter: the milter service, in the foreground, logging to stderr.

Exit status 0 after TERM or INT, 2 for a wrong command line or configuration, 3 where the socket
cannot be had. `ready` is printed to stdout once the socket answers.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from gatepost_milter.engine import engines
from gatepost_milter.engine.children import RECORDER, Helper
from gatepost_milter.engine.listener import SocketError, open_listener
from gatepost_milter.engine.supervisor import Supervisor, try_journal
from gatepost_policy import config
from gatepost_policy.config.settings import Settings
from gatepost_policy.monitoring.maillog import MailLog
from gatepost_policy.system import std_files, version
from gatepost_policy.system.socket_address import SocketAddress


class StateError(Exception):
    """The state directory cannot be used. The text is one line with the next step."""


def postfix_lines(settings: Settings) -> tuple[str, str]:
    """What to paste: the main.cf line, and the submission listener's options in master.cf."""
    socket = SocketAddress.parse(settings.milter.socket).postfix()
    name = (*settings.submission.daemon_names, "ORIGINATING")[0]
    return (
        f"smtpd_milters = {{ {socket}, default_action=accept }}",
        f"-o smtpd_milters={{ {socket}, default_action=tempfail }}"
        f" -o milter_macro_daemon_name={name}",
    )


def announce(settings: Settings) -> None:
    """The one `ready` line, and the lines to paste."""
    main_cf, master_cf = postfix_lines(settings)
    text = (
        f"gatepost-milter ready on {settings.milter.socket}\n"
        f"  main.cf:               {main_cf}\n"
        f"  master.cf, submission: {master_cf}\n"
    )
    try:
        os.write(1, text.encode())
    except OSError:
        pass  # nobody reads it


def serve(
    load: Callable[[], Settings],
    *,
    ready: Callable[[Settings], None] = announce,
    helpers: Sequence[Helper] = (RECORDER,),
    replay: bool = False,
) -> int:
    """Run the milter in this process until it is told to stop; the exit status.

    Raises ConfigError, StateError and SocketError before anything is started.
    """
    settings = load()
    if not replay:
        try:
            try_journal(settings, MailLog(settings.log))
        except config.ConfigError as error:
            raise StateError(str(error)) from None
    engine = engines.load(settings.milter.engine)
    listener = open_listener(settings, engine.open_socket)
    return Supervisor(engine, settings, listener, load, ready, helpers, replay).run()


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    std_files.ensure()
    parser = argparse.ArgumentParser(
        prog="gatepost-milter", description="The milter service of gatepost."
    )
    parser.add_argument("--config", metavar="FILE", help="configuration file")
    parser.add_argument("--version", action=version.Version)
    parser.add_argument("--store", metavar="URL", help="use this store instead")
    # For `milterctl replay`: time and DNS come with each message, and nothing is recorded here.
    parser.add_argument("--replay", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        path = config.find(options.config, os.environ)
        return serve(
            lambda: config.load(path, store=options.store),
            helpers=() if options.replay else (RECORDER,),
            replay=options.replay,
        )
    except config.ConfigError as error:
        print(f"gatepost-milter: {error}", file=sys.stderr, flush=True)
        return 2
    except (SocketError, StateError) as error:
        print(f"gatepost-milter: {error}", file=sys.stderr, flush=True)
        return 3


if __name__ == "__main__":
    sys.exit(main())
