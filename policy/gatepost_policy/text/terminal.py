"""Consoles and empty tables: as wide as the terminal, or as wide as a value needs in a pipe.

On a terminal tables fold to its width; into a pipe nothing is cut or folded, so that grep finds
it. Text is never taken as markup. Text from messages must go through `shown` before it comes here.
"""

from typing import TextIO

from rich.box import ASCII2, SIMPLE_HEAD, Box
from rich.console import Console, RenderableType
from rich.table import Table

from gatepost_policy.text.escape import shown
from gatepost_policy.text.times import timestamp

PIPE_WIDTH = 1_000_000
ROOM, BROAD = 80, 110  # columns
UNSIGNED = {"none": "unsigned"}
GOOD, BAD, DIM, HEAD = "green", "bold red", "dim", "bold"


def console(stream: TextIO, terminal: int | None = None) -> Console:
    """A console on `stream`: as wide as the terminal, or as wide as a value needs in a pipe.

    `terminal`: treat the stream as a terminal of so many columns, whatever it is.
    """
    # markup, emoji: `[red]` and `:bomb:` in an address are characters like any other.
    if terminal is not None:
        # With a height too: else Rich takes 80 columns where $TERM is dumb.
        return Console(
            file=stream, width=terminal, height=25, force_terminal=True, color_system=None,
            highlight=False, markup=False, emoji=False,
        )  # fmt: skip
    if stream.isatty():
        return Console(file=stream, highlight=False, markup=False, emoji=False)
    return Console(
        file=stream, width=PIPE_WIDTH, color_system=None, highlight=False, markup=False, emoji=False
    )


def put(to: Console, what: RenderableType) -> None:
    """Print `what`; into a pipe without the blanks that fill a table up to its width."""
    if to.is_terminal:
        to.print(what)
        return
    with to.capture() as captured:
        to.print(what, soft_wrap=True)
    to.file.writelines(f"{line.rstrip()}\n" for line in captured.get().rstrip("\n").split("\n"))


def plain(*columns: str, to: Console, title: str | None = None) -> Table:
    """A table without rows, as all commands print them; on a terminal its cells may fold."""
    made = Table(
        *columns,
        box=_box(to),
        pad_edge=False,
        header_style=HEAD,
        title=title,
        title_justify="left",
        title_style=HEAD,
        show_edge=False,
    )
    for column in made.columns:
        column.no_wrap = not to.is_terminal
        column.overflow = "fold"
    return made


def whole(table: Table, to: Console, *headers: str) -> Table:
    """`table`, whose columns `headers` (times, figures) are not folded on a terminal of at least
    ROOM columns. Other columns get narrower instead; `stacked` breaks a time before its hour.
    """
    if to.is_terminal and to.width >= ROOM:
        for column in table.columns:
            if column.header in headers:
                column.no_wrap = True
    return table


def stacked(time: str, to: Console) -> str:
    """`time` with the hour below the day on a narrow terminal."""
    narrow = to.is_terminal and to.width < BROAD
    return time.replace("T", " ").replace(" ", "\n") if narrow else time


def _box(to: Console) -> Box:
    return SIMPLE_HEAD if utf8(to) else ASCII2


def utf8(to: Console) -> bool:
    """True where the console's encoding is UTF-8: lines and symbols beyond ASCII can be drawn."""
    return (to.encoding or "").lower().startswith("utf")


def minute(at: float) -> str:
    """`at` (Unix seconds) as `2011-04-28 12:40`, in UTC."""
    return timestamp(at)[:16].replace("T", " ")


def client(address: str | None, name: str | None) -> str:
    """A client as `host.example [192.0.2.1]`, or the part that is known, else `unknown`."""
    if address is None:
        return shown(name) if name else "unknown"
    return f"{shown(name)} [{address}]" if name else f"[{address}]"


def style(result: str) -> str:
    """The Rich style of a result of DKIM, SPF or DMARC."""
    return {"pass": GOOD, "none": DIM}.get(result, "yellow")
