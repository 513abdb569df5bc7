"""What tools/compiled.py compiles is there, and does not take rows of the store apart."""

import importlib.util
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def _modules() -> list[str]:
    spec = importlib.util.spec_from_file_location("compiled", TOP / "tools/compiled.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return list(tool.MODULES)


@pytest.mark.parametrize("name", _modules())
def test_compiles_what_is_there(name: str) -> None:
    """A compiled loop over a tuple takes nothing else, and SQLAlchemy's rows are no tuples."""
    package, _, _ = name.partition(".")
    room = TOP / package.removeprefix("gatepost_") / (name.replace(".", "/") + ".py")
    source = room.read_text()
    assert "sqlalchemy" not in source or ".mappings()" in source
