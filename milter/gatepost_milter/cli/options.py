"""Options shared by several commands: `--format`; and a progress bar."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import click

from gatepost_milter.cli.common import on_terminal


def format_option(*forms: str, text: str = "For people or for programs.") -> Callable[[Any], Any]:
    """The option `--format`, given to the command as `form`; the default is `table`."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(("table", *forms)),
        default="table",
        show_default=True,
        help=text,
    )


FORMAT = format_option("json")
LIST_FORMAT = format_option("json", "csv", text="For people, for programs, for a spreadsheet.")


@contextmanager
def progress(
    what: str, total: float | None, unit: Literal["share", "octets", "files"] = "share"
) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr, removed at the end; none where stderr is not a terminal.

    Call the yielded function with the amount done since the last call. `total`: the whole amount,
    None where it is not known.
    """
    if not on_terminal(sys.stderr):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TimeRemainingColumn,
    )

    units: dict[str, ProgressColumn] = {
        "share": TaskProgressColumn(),
        "octets": DownloadColumn(),
        "files": MofNCompleteColumn(),
    }
    columns: Sequence[str | ProgressColumn] = (
        what, BarColumn(), units[unit], TimeRemainingColumn(),
    )  # fmt: skip
    # With its redirections rich would print to stderr what is meant for stdout.
    with Progress(
        *columns, console=Console(stderr=True), transient=True,
        redirect_stdout=False, redirect_stderr=False,
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
