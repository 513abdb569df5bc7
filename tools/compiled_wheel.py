"""A wheel of a tree that tools/compiled.py compiled is for one Python and machine (hatchling).

The modules' own libraries lie in the packages and come along; the one that holds their code belongs
beside the packages. Without it the wheel is as ever: pure Python, for every machine.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Compiled(BuildHookInterface):  # type: ignore[type-arg]
    """Looks for the library."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it gathers the files."""
        found = list(Path(self.root, "policy").glob("gatepost__mypyc.*.so"))
        if version != "editable" and found:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"].update({str(path): path.name for path in found})
