"""What runs here: `--version` of the daemons, and whether it is compiled (tools/compiled.py).

The version is looked up when it is asked for, not at each start.
"""

import argparse
import importlib
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, PathFinder
from typing import Any

LIBRARY = "gatepost__mypyc"  # has the machine code of all compiled modules
_INITIALIZE = "init_"  # and for each of them a capsule: init_gatepost_policy___dkim___body


def built() -> str:
    """`pure Python`, or `compiled`: each module that the compiled library has is taken from it.
    Where some are not, their number stands behind it."""
    if not (modules := _in_library()):
        return "pure Python"
    sources = from_sources()
    return f"compiled, but {len(sources)} of {len(modules)} from sources" if sources else "compiled"


def from_sources() -> list[str]:
    """The modules that the compiled library has, and for which an import finds something else.

    Compiled modules call one another without Python: what is found by an import must be the same.
    """
    return [name for name in _in_library() if not isinstance(_loader(name), ExtensionFileLoader)]


def _loader(module: str) -> object:
    """What the first import of `module` uses, whether or not it is loaded now."""
    package, _, _ = module.rpartition(".")
    spec = PathFinder.find_spec(module, importlib.import_module(package).__path__)
    return spec and spec.loader


def _in_library() -> list[str]:
    """The names of the modules that are compiled here; none where nothing is."""
    try:
        library = importlib.import_module(LIBRARY)
    except ImportError:
        return []
    words = [word for word in vars(library) if word.startswith(_INITIALIZE)]
    return [word.removeprefix(_INITIALIZE).replace("___", ".") for word in words]


class Version(argparse.Action):
    """Print program and version, and end with status 0."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and end")

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        from importlib.metadata import version

        print(f"{parser.prog}, version {version('gatepost')} ({built()})")
        parser.exit()
