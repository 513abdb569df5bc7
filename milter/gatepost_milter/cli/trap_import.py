"""`milterctl trap import`: a published list, one address a line, with a progress bar."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from gatepost_milter.cli.common import FINDINGS, App, Failure, note
from gatepost_milter.cli.options import progress
from gatepost_milter.cli.trap_options import NOTE, PUBLISHED, SOURCE, WHEN


@click.command("import", short_help="Take a list, one address a line.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE")
@SOURCE
@NOTE
@PUBLISHED
@WHEN
@click.option("--dry-run", is_flag=True, help="Only count what would come; nothing changes.")
@click.pass_obj
def command(
    app: App,
    file: Path,
    source: str,
    note: str,
    published: str,
    published_at: float | None,
    dry_run: bool,
) -> None:
    """Take one address a line (`-`: standard input); `#` starts a comment.

    All of them become traps at one moment, at the end. A trap that was removed by hand stays
    removed; `trap add` brings it back.
    """
    result = _import(
        app,
        file,
        source=source or ("" if str(file) == "-" else file.name),
        note=note,
        published=published,
        published_at=published_at,
        dry_run=dry_run,
    )
    if dry_run:
        say("milterctl: nothing was changed; without --dry-run this would come")
    from gatepost_policy.text.plural import plural

    click.echo(
        f"{plural(result.added, 'new trap')}, {result.known} known already, "
        f"{plural(result.invalid, 'line')} refused"
    )
    for number, text, why in result.refused:
        from gatepost_policy.text.escape import shown

        say(f"{file}: line {number}: {shown(text)}: {why}")
    if result.invalid > len(result.refused):
        say(f"{file}: and {result.invalid - len(result.refused)} more")
    if result.invalid:
        raise SystemExit(FINDINGS)


MAX_LINE_BYTES = 16_384
say = note  # an option of this name hides it in the commands


def _import(app: App, file: Path, **values: Any) -> Any:
    from sqlalchemy.exc import SQLAlchemyError

    from gatepost_policy import store, traps

    with app.opened() as engine, _opened(file) as (lines, size), progress("traps", size) as advance:
        with engine.connect() as bare:
            connection = bare.execution_options(gatepost_writing=True)
            try:
                return traps.import_lines(
                    connection, lines, at=time.time(), progress=advance, **values
                )
            except SQLAlchemyError as error:
                raise store.explain(error, engine) from error
            except BlockingIOError:
                raise Failure("another import of traps is running; try again later") from None


class _opened:
    """The lines of a file with its size in octets (None: standard input)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[bytes] | None = None

    def __enter__(self) -> tuple[Iterator[bytes], int | None]:
        if str(self.path) == "-":
            return iter(sys.stdin.buffer), None
        try:
            self.file = self.path.open("rb")
            size = self.path.stat().st_size
        except OSError as error:
            raise Failure(f"{self.path}: cannot be read: {error.strerror}") from None
        # A line without an end must not fill the memory; a longer one is no address anyway.
        file = self.file
        return iter(lambda: file.readline(MAX_LINE_BYTES), b""), size

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
