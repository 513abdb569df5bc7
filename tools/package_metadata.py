"""What the wheel says about itself that README.md cannot: links that lead somewhere (hatchling).

README's links are relative, for a reader of the tree. On an index page they would be dead: with
$GATEPOST_URL, the address of the repository, they lead to its files and the project gets its URLs;
without it the page names the file in the source instead.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:|#)([^)]+)\)")


def description(text: str, url: str) -> str:
    """README for an index page. `url`: of the repository, or empty."""
    if url:
        return LINK.sub(lambda m: f"[{m[1]}]({url.rstrip('/')}/blob/main/{m[2]})", text)

    def named(link: re.Match[str]) -> str:
        words, path = link[1], link[2].partition("#")[0]
        return words if words.strip("`") == path else f"{words} (`{path}`)"

    return LINK.sub(named, text)


class Metadata(MetadataHookInterface):
    """Fills in `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling, with what pyproject.toml says."""
        url = os.environ.get("GATEPOST_URL", "")
        text = (Path(self.root) / "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": description(text, url)}
        if url:
            metadata["urls"] = {
                "Source": url,
                "Documentation": f"{url.rstrip('/')}/blob/main/README.md",
                "Changelog": f"{url.rstrip('/')}/blob/main/CHANGELOG.md",
            }
