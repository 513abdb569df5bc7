"""`milterctl import --list` and `--undo`: show the imports in the store, or undo one."""

import json
import sys
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli.common import USAGE, App, Failure, on_terminal
from gatepost_milter.cli.listed import write_csv
from gatepost_milter.cli.options import progress
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

if TYPE_CHECKING:
    from gatepost_policy.ingest.import_runs import Run


def show(app: App, form: str) -> None:
    """Print all imports in the store, oldest first. Raises StoreError."""
    from gatepost_policy.ingest import import_runs

    with app.store() as connection:
        runs = import_runs.runs(connection)
    if form == "json":
        print(json.dumps([_json(run) for run in runs], indent=2))
        return
    if form == "csv":
        names = [field.name for field in fields(import_runs.Run)]
        write_csv(names, (_json(run) for run in runs))
        return
    if not runs:
        click.echo("no imports")
        return
    from gatepost_policy.text.terminal import console, plain, put, whole

    to = console(sys.stdout)
    grid = plain("ID", "Began", "Log", "Messages", "Submissions", "State", "Files", to=to)
    whole(grid, to, "ID", "Began", "State")
    for run in runs:
        grid.add_row(
            str(run.id),
            timestamp(run.began),
            run.mta,
            str(run.messages),
            str(run.submissions),
            _state(run),
            " ".join(shown(name) for name in run.files),
        )
    put(to, grid)


def _state(run: "Run") -> str:
    if run.undoing:
        return "half taken back"
    if run.ended is None:
        return "unfinished"
    return f"{run.counted} are numbers" if run.counted else "whole"


def _json(run: "Run") -> dict[str, Any]:
    out = asdict(run)
    out["began"] = timestamp(run.began)
    out["ended"] = None if run.ended is None else timestamp(run.ended)
    return out


def take_back(app: App, number: int, yes: bool, form: str) -> None:
    """Undo the import `number`, after a question unless `yes`. Raises StoreError, Failure."""
    from gatepost_policy import ingest

    with app.opened() as engine:
        if not yes:
            _ask(app, number)
        total = None
        with app.store() as connection:
            for run in ingest.import_runs.runs(connection):
                if run.id == number:
                    total = run.messages + run.submissions + run.guesses
        try:
            with progress("taking back", total) as advance:
                done = ingest.undo(engine, app.settings, number, advance)
        except ingest.CannotUndoError as error:
            raise Failure(
                f"import {number} cannot be taken back: {error} (milterctl import --list)"
            ) from None
    if form == "json":
        print(json.dumps(asdict(done), indent=2))
        return
    also = ""
    if done.guesses:
        also = f", {plural(done.guesses, 'row')} of what was tried and does not exist"
    if done.passed_on:
        also += f"; {done.passed_on} stay, because another import has told of them as well"
    click.echo(
        f"import {number} is taken back: {plural(done.messages, 'message')},"
        f" {plural(done.submissions, 'submission')}{also}"
    )


def _ask(app: App, number: int) -> None:
    if not on_terminal(sys.stdin):
        raise Failure(
            f"import --undo {number}: nobody can be asked here, and there is no way back but to"
            " import again; to go on: --yes",
            USAGE,
        )
    click.confirm(f"Take back all that import {number} has brought?", abort=True, err=True)
