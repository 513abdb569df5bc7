"""What several commands offer alike: `--format`, and a progress bar for a person who waits."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import click

from gatepost_milter.cli.common import on_terminal


def format_option(*forms: str, text: str = "For people or for programs.") -> Callable[[Any], Any]:
    """`--format`, handed on as `form`: `table` unless said otherwise."""
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
    """A bar on stderr, gone in the end; call it with what was done since. None: no known end.

    Nothing where nobody looks at stderr.
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
    # Without the redirections rich would print to stderr what is meant for stdout.
    with Progress(
        *columns, console=Console(stderr=True), transient=True,
        redirect_stdout=False, redirect_stderr=False,
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
