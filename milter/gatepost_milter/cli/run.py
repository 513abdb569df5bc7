"""`milterctl run`: both services in the foreground."""

import sys

import click

from gatepost_milter.cli.common import App


@click.command()
@click.pass_obj
def command(app: App) -> None:
    """Run milter and policy service in the foreground.

    Without a configuration: on loopback, with a SQLite store. One `ready` line names the sockets
    and the lines to paste into Postfix's configuration. Ctrl-C ends both.
    """
    from gatepost_milter.cli import run_services

    raise SystemExit(
        run_services.run(
            app.settings, run_services.options(app.config_path, app.store_option), sys.stdout
        )
    )
