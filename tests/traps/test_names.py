"""Lines that can never match are refused, with the number of the line."""

import pytest
from sqlalchemy import Engine

from gatepost_policy import store, traps

NEVER = [
    "mailto:trap@home.example", "MAILTO:trap@home.example", "a@home.example, b@home.example",
    "a@home.example b@home.example", "a@home.example;b@home.example", "a@b@home.example",
    "a b@home.example", "Trap <trap@home.example>", "<trap@home.example", "trap@home.example>",
    "trap@home..example", "trap@.home.example", "trap@-home.example", "trap@home.example#x",
    "trap@" + "x" * 64 + ".example", "tr\u200bap@home.example", "@home..example", "@home.example/x",
    "trap@home.example\tOK", "trap@home.example:", "(x)trap@home.example", "home.example",
]  # fmt: skip
FINE = [
    "trap@home.example", "<trap@home.example>", " trap@home.example ", '"a b"@home.example',
    "@old.example", "o'neil+x@home.example", "info-*@home.example", "x@[192.0.2.1]",
    "a..b@home.example", "t@b\u00fccher.example", "t@home_x.example", "t@localhost",
]  # fmt: skip


@pytest.mark.parametrize("name", NEVER)
def test_never(name: str) -> None:
    with pytest.raises(ValueError, match="want|no mail can come"):
        traps.classify(name)


@pytest.mark.parametrize("name", FINE)
def test_fine(name: str) -> None:
    assert traps.classify(name)[1]


def test_an_import_says_which_line(engine: Engine) -> None:
    lines = [
        b"trap@home.example\n",
        b"a@home.example, b@home.example\n",
        b"mailto:c@home.example\n",
    ]
    with store.open_url(str(engine.url), ensure=False).connect() as connection:
        done = traps.import_lines(connection, lines, at=1.0)
    assert (done.added, done.invalid) == (1, 2)
    assert [number for number, _, _ in done.refused] == [2, 3]
