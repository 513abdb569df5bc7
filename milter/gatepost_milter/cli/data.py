"""`milterctl data`: export or erase what is stored about one person."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from gatepost_milter.cli.common import USAGE, App, Failure, note, on_terminal
from gatepost_milter.cli.options import FORMAT
from gatepost_policy.text.escape import shown


@click.group(short_help="One person's data: export or erase it.")
def command() -> None:
    """One person's data: export or erase it.

    Covers the store, captured messages, the journal and the quarantine. An address is compared
    without regard to case, and without its +tag.
    """


@command.command()
@click.argument("address")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write there instead of to standard output.")  # fmt: skip
@click.pass_obj
def export(app: App, address: str, output: Path | None) -> None:
    """Write everything that is held about ADDRESS, as JSON."""
    from gatepost_policy.retention import person

    if output is not None:
        app.outside(output)
    with app.opened() as engine:
        _ingest(app)
        try:
            found = person.export(engine, app.settings, address, _progress)
        except ValueError as error:
            raise Failure(str(error), USAGE) from None
    text = json.dumps(found, indent=2) + "\n"
    if output is None or str(output) == "-":
        sys.stdout.write(text)
    else:
        output.touch(mode=0o600)
        output.write_text(text)


@command.command()
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only count what would go; nothing changes.")
@FORMAT
@click.pass_obj
def erase(app: App, address: str, yes: bool, dry_run: bool, form: str) -> None:
    """Take ADDRESS out of everything. There is no way back.

    Mail that the person sent becomes numbers; as a recipient the person becomes nobody, so that
    every count stays right. Mail whose bounce address carries ADDRESS (list+user=domain@...)
    becomes numbers too. Backups, older copies of the store and your own log files are not
    changed. On a terminal it asks first; elsewhere it wants --yes.
    """
    from gatepost_policy.retention import person

    if not yes and not dry_run:
        if not on_terminal(sys.stdin):
            raise Failure(
                "data erase: nobody can be asked here, and there is no way back; "
                "to erase all the same: --yes",
                USAGE,
            )
        click.confirm(f"Erase everything about {address}?", abort=True, err=True)
    with app.opened() as engine:
        _ingest(app)
        try:
            if dry_run:
                told = person.would_erase(engine, app.settings, address, _progress)
            else:
                told = person.erase(engine, app.settings, address, time.time(), _progress)
        except ValueError as error:
            raise Failure(str(error), USAGE) from None
    done: dict[str, Any] = told.json()
    if dry_run:
        note("milterctl: nothing was changed; without --dry-run this would go")
        del done["journal"]  # its records are in the store by now, and are blanked with them
    if form == "json":
        print(json.dumps(done, indent=2))
    else:
        for name, value in done.items():
            if name not in ("is_trap", "copies"):
                print(f"{name}: {value}")
    if done["is_trap"]:
        note(f"milterctl: {address} is a trap and stays one; see milterctl trap remove")
    for copy in told.copies:
        note(f"milterctl: {shown(copy)}: an older copy of the store, not changed: remove it")
    if not dry_run:
        note("milterctl: backups and your own log files were not changed")


def _progress(text: str) -> None:
    note(f"milterctl: {text}")


def _ingest(app: App) -> None:
    """Wait until the journal is in the store: records that are stored later would bring erased data
    back. Raises Failure."""
    from gatepost_policy import recorder

    if not recorder.wait_until_ingested(app.settings, timeout=10.0):
        raise Failure("the recorder does not keep up with the journal; look at: milterctl check", 3)
