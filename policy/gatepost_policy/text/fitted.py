"""Fit a table to a terminal without cutting the values that it is about.

A table is about things: senders, traps, clients. People copy such a value to somewhere else, so it
is never folded or cut to make room for a figure. How it works: each other column is at least as
wide as its longest word. A row whose things fit beside the other columns is one line. For a row
whose things do not fit, the things have lines of their own, and the figures are below or above them
in their columns. Into a pipe nothing is folded, and the table stays as it is. All widths are
columns of the terminal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gatepost_policy.text.terminal import DIM, HEAD, utf8

GAP = 3  # columns between two cells, as the boxes of `terminal.plain` have it
WORD_MAX = 24  # a longer word may be folded, in columns that are not things
INDENT = 2
BETWEEN = 2  # blanks between two things in one line


@dataclass
class _Column:
    """One column; `width` is what it was given. `thing`: its values are never folded or cut."""

    header: str
    cells: list[Text]
    thing: bool
    rigid: bool  # never folded: a time, a figure
    prose: bool = False  # several things in one cell: it may be folded, but only between them
    right: bool = False
    width: int = 0

    @property
    def natural(self) -> int:
        """The width at which nothing is folded: the longest line of the header and the cells."""
        return max((_width(text) for text in (Text(self.header), *self.cells)), default=0)

    @property
    def least(self) -> int:
        """The width of the longest word, at most WORD_MAX; of a rigid column its natural width."""
        if self.rigid:
            return self.natural
        words = (word for text in (Text(self.header), *self.cells) for word in text.plain.split())
        return min(WORD_MAX, max(map(cell_len, words), default=0))

    @property
    def usual(self) -> int:
        """The width that is enough for three quarters of the values, and for the header."""
        widths = sorted(self.needs(text) for text in self.cells)
        enough = widths[-(-len(widths) * 3 // 4) - 1] if widths else 0
        return max(enough, cell_len(self.header))

    def needs(self, text: Text) -> int:
        """The width below which this cell would be cut."""
        if not self.prose:
            return _width(text)
        return max(map(cell_len, text.plain.split()), default=0)


def fitted(table: Table, to: Console, *things: str, prose: str = "") -> RenderableType:
    """`table` for `to`; the values in the columns with the headers `things` are never folded.

    `prose`: the header of a column with several things in a cell, where each of them stays whole.
    """
    if not to.is_terminal:
        return table
    columns = [
        _Column(
            header=str(column.header),
            cells=[cell if isinstance(cell, Text) else Text(str(cell)) for cell in column.cells],
            thing=str(column.header) in (*things, prose),
            rigid=column.no_wrap,
            prose=str(column.header) == prose,
            right=column.justify == "right",
        )
        for column in table.columns
    ]
    if sum(c.natural for c in columns) + GAP * (len(columns) - 1) <= to.width:
        return table
    parts: list[RenderableType] = [] if not table.title else [Text(str(table.title), HEAD)]
    return Group(*parts, *_lines(columns, to))


def _lines(columns: list[_Column], to: Console) -> list[Text]:
    named = [c for c in columns if c.thing]
    others = [c for c in columns if not c.thing]
    beside = _beside(named, others, to.width)
    if not beside:
        _alone_columns(others, to.width - INDENT)
    drawn = columns if beside else others
    first = columns[0].thing
    indent = INDENT if first and not beside else 0
    head = _row([Text(c.header, HEAD) for c in drawn], drawn, to, indent)
    words = ", ".join(c.header for c in named)
    names = [] if beside else [Text(" " * (0 if first else INDENT) + words, HEAD)]
    rule = Text(("─" if utf8(to) else "-") * to.width, DIM)
    lines = [*names, *head, rule] if first else [*head, *names, rule]
    for cells in zip(*(c.cells for c in columns), strict=True):
        own = [text for text, c in zip(cells, columns, strict=True) if c.thing]
        fits = beside and all(c.needs(t) <= c.width for t, c in zip(own, named, strict=True))
        if fits:
            lines += _row(cells, drawn, to, indent)
            continue
        shown = [
            Text() if c.thing else text
            for text, c in zip(cells, columns, strict=True)
            if not c.thing or beside
        ]
        figures = _row(shown, drawn, to, indent)
        alone = _alone(own, to, 0 if first else INDENT)
        lines += [*alone, *figures] if first else [*figures, *alone]
    return lines


def _beside(named: Sequence[_Column], others: Sequence[_Column], room: int) -> bool:
    """True where most things fit beside the other columns in `room`; then all columns have got
    their width."""
    room -= GAP * (len(named) + len(others) - 1)
    for column in named:
        column.width = column.usual
    left = room - sum(c.width for c in named)
    if left < sum(c.least for c in others):
        return False
    left = room - sum(c.width for c in named) - _share(others, left)
    for column in named:
        more = min(left, column.natural - column.width)
        column.width, left = column.width + more, left - more
    return True


def _alone_columns(others: Sequence[_Column], room: int) -> None:
    """Set the widths of the other columns where things have lines of their own. A time on two lines
    becomes one line again, where there is room."""
    stacked = [c.cells for c in others]
    for column in others:
        column.cells = [_one_line(cell) for cell in column.cells]
    room -= GAP * (len(others) - 1)
    if sum(c.least for c in others) > room:
        for column, cells in zip(others, stacked, strict=True):
            column.cells = cells
    _share(others, room)


def _share(columns: Sequence[_Column], room: int) -> int:
    """Give each column a width; returns their sum. Columns that need little more come first."""
    for column in columns:
        column.width = column.least
    left = room - sum(c.width for c in columns)
    for column in sorted(columns, key=lambda c: c.natural - c.least):
        more = max(0, min(left, column.natural - column.least))
        column.width, left = column.width + more, left - more
    # Too little room for the longest words: nothing is lost, but words are folded.
    while left < 0 and (widest := max(columns, key=lambda c: c.width)).width > 1:
        widest.width, left = widest.width - 1, left + 1
    return sum(c.width for c in columns)


def _row(cells: Sequence[Text], columns: Sequence[_Column], to: Console, indent: int) -> list[Text]:
    """One row as lines, each cell folded to its column's width."""
    folded = [_fold(cell, c.width, to) for cell, c in zip(cells, columns, strict=True)]
    lines = []
    for at in range(max(map(len, folded), default=0)):
        line = Text(" " * indent)
        for number, (parts, column) in enumerate(zip(folded, columns, strict=True)):
            part = parts[at] if at < len(parts) else Text()
            line.append(" " * GAP if number else "")
            blank = " " * (column.width - cell_len(part.plain))
            if column.right:
                line.append(blank).append_text(part)
            else:
                line.append_text(part).append(blank)
        line.rstrip()
        lines.append(line)
    return [line for line in lines if line.plain.strip()]


def _alone(things: Sequence[Text], to: Console, indent: int) -> list[Text]:
    """The lines of a row's things: all on one line where that fits, else each on its own."""
    given = [thing for thing in things if thing.plain]
    room = to.width - indent
    if sum(map(_width, given)) + BETWEEN * (len(given) - 1) <= room and not any(
        "\n" in thing.plain for thing in given
    ):
        given = [Text(" " * BETWEEN).join(given)]
    lines = []
    for thing in given:
        for part in _fold(thing, room, to):
            line = Text(" " * indent).append_text(part)
            line.rstrip()
            lines.append(line)
    return lines


def _fold(text: Text, width: int, to: Console) -> list[Text]:
    return list(text.wrap(to, max(1, width), overflow="fold")) if text.plain else []


def _one_line(text: Text) -> Text:
    """`text` on one line; a time may have two (`terminal.stacked`)."""
    return Text(" ").join(text.split("\n")) if "\n" in text.plain else text


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")), default=0)
