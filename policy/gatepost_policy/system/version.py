"""`--version` of the daemons: the version is looked up when it is asked for, not at each start."""

import argparse
from collections.abc import Sequence
from typing import Any


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

        print(f"{parser.prog}, version {version('gatepost')}")
        parser.exit()
