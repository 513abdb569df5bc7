"""What runs here: `--version` of the daemons, and whether it is compiled (tools/compiled.py).

The version is looked up when it is asked for, not at each start.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader
from typing import Any


def built() -> str:
    """`compiled` where this process has loaded machine code for modules of gatepost, else `pure
    Python`: looked for in what is loaded, not in what lies on the disk."""
    ours = [module for name, module in sys.modules.items() if name.startswith("gatepost_")]
    loaders = [getattr(module, "__loader__", None) for module in ours]
    return "compiled" if any(isinstance(x, ExtensionFileLoader) for x in loaders) else "pure Python"


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
