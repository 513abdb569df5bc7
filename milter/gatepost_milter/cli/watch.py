"""`milterctl watch`: follow the logs of a mail server while they are written."""

from pathlib import Path

import click

from gatepost_milter.cli.common import USAGE, App, Failure


@click.command(short_help="Follow MTA logs while they are written.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--journal", is_flag=True, help="Follow the mail facility of the systemd journal.")
@click.option("--zone", metavar="ZONE", help="Zone of times without one (the machine's).")
@click.option("--once", is_flag=True, help="Read what is there, and end.")
@click.pass_obj
def command(app: App, files: tuple[Path, ...], journal: bool, zone: str | None, once: bool) -> None:
    """Follow MTA logs while they are written, and record what they tell.

    For a site without the milter, or whose MTA refuses mail before the milter sees it. FILE is the
    log of Exim or of Postfix, told apart by itself, in any format that `import` reads; both kinds
    of rotation are followed. The position is in the store: after an end of any kind it goes on
    where it was. A file that was never followed is read from its beginning.

    Mail that the milter or the policy service records as well stays one message. A trap hit that is
    read within five minutes lists its client; a log proves no signature. Nothing is written to the
    MTA, and only read access to the log is needed.
    """
    from gatepost_milter.cli import watch_run
    from gatepost_milter.cli.import_logs import zone_named

    if not files and not journal:
        raise Failure("watch: want FILE... or --journal", USAGE)
    raise SystemExit(watch_run.run(app.settings, files, journal, zone_named(zone), once=once))
