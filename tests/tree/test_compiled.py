"""What tools/compiled.py compiles is there, and does not take rows of the store apart."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("compiled", TOP / "tools/compiled.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


TOOL = _tool()
MODULES = list(TOOL.MODULES)


def _source(name: str) -> str:
    package, _, _ = name.partition(".")
    room = TOP / package.removeprefix("gatepost_") / (name.replace(".", "/") + ".py")
    return room.read_text("utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_compiles_what_is_there(name: str) -> None:
    """A compiled loop over a tuple takes nothing else, and SQLAlchemy's rows are no tuples."""
    source = _source(name)
    assert "sqlalchemy" not in source or ".mappings()" in source


CLASSES = """
from dataclasses import dataclass, field

NOBODY = ()

@dataclass(frozen=True, slots=True)
class Value:
    "What it is."

    at: float  # seconds
    name: str | None = None
    who: tuple[str, ...] = NOBODY
    words: tuple[
        str, ...
    ] = ("a",
         "b")
    # The last one.

    def shown(self) -> str:
        return f"{self.name}"


@dataclass
class Kept:
    found: list[str] = field(default_factory=list)
    count: int = field(default=3)

@dataclass(frozen=True, order=True)
class Ordered:
    at: float
"""


def test_writes_out_the_init_of_dataclasses() -> None:
    """Made as before, by hand and not; and what follows keeps its line."""
    written = TOOL.written_out(CLASSES)
    assert len(written.split("\n")) == len(CLASSES.split("\n"))
    assert written.count("def __init__(self, ") == 2
    plain: dict[str, Any] = {}
    made: dict[str, Any] = {}
    exec(CLASSES, plain)
    # Without frozen, as compiled code stores a field.
    exec(written.replace("frozen=True, slots", "slots"), made)
    for arguments in ({"at": 1.5}, {"at": 2.0, "name": "n", "who": ("x",), "words": ()}):
        assert repr(made["Value"](**arguments)) == repr(plain["Value"](**arguments))
    assert made["Value"](1.0, "n").shown() == "n"
    line = [space["Value"].shown.__code__.co_firstlineno for space in (plain, made)]
    assert line[0] == line[1]
    one, other = made["Kept"](), made["Kept"](["x"])
    assert repr(one) == repr(plain["Kept"]()) and other.found == ["x"]
    assert one.found is not made["Kept"]().found


CONSTANTS = """\"\"\"What it is.\"\"\"

import re

T = re
WORDS = {"a": 1}
_ONE, _TWO = 1, (2, 3)
_FIND = re.compile(
    "a"
).match
KINDS: dict[str, int] = {}
SEGMENT_BYTES = 5
TWICE = 1
TWICE = 2
_seen: set[str] = set()
"""


def test_constants_are_final() -> None:
    """But not what is assigned twice, a type variable, and what a test replaces."""
    written = TOOL.written_out(CONSTANTS)
    assert written.split("\n")[1] == "from typing import Final"
    found = [one for one in written.split("\n") if ": Final" in one]
    assert found == [
        'WORDS: Final = {"a": 1}',
        "_ONE: Final = 1; _TWO: Final = (2, 3)",
        "_FIND: Final = re.compile(",
        "KINDS: Final[dict[str, int]] = {}",
    ]
    assert len(written.split("\n")) == len(CONSTANTS.split("\n"))
    exec(written, {})


def test_leaves_a_class_whose_values_are_made_without_it() -> None:
    """A compiled `__new__` calls the `__init__` that stands in the class."""
    bare = TOOL.made_bare([CLASSES, "value = Value.__new__(Value)"])
    assert bare == {"Value"}
    assert TOOL.written_out(CLASSES, bare).count("def __init__(self, ") == 1


@pytest.mark.parametrize("name", MODULES)
def test_no_dataclass_of_the_message_path_is_left_out(name: str) -> None:
    """Where one needs what `written_out` does not know, the interpreter would make it again."""
    source = _source(name)
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    fields = [
        node
        for node in classes
        if any("dataclass" in ast.unparse(one) for one in node.decorator_list)
        and any(isinstance(one, ast.AnnAssign) for one in node.body)
    ]
    method = "\n    def __init__(self, "
    assert TOOL.written_out(source).count(method) == source.count(method) + len(fields)
