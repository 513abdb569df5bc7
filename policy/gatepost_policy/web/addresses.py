"""The live page's own URLs: permalinks, and the filters that stay in every link.

Pure. A filter is a query parameter of the URL, so a URL that is passed on shows the same page.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from werkzeug.routing import BaseConverter

from gatepost_policy.report import filters
from gatepost_policy.text.times import timestamp

FILTERS = filters.NAMES


class Value(BaseConverter):
    """What a permalink is about: any text, slashes and line ends included."""

    regex = r"(?s:.+?)"
    part_isolating = False
    weight = 200  # as werkzeug's own `path`: routes that are more exact are tried first


def place(kind: str, value: str) -> str:
    """The path of the page of a sender, host, name, trap or message, below the root."""
    if not value:
        return "/sender/%3C%3E"
    # A prefix keeps its slash: some proxies decode %2F, and others do not.
    return f"/{kind}/{quote(value, safe='@:/' if kind == 'host' else '@:')}"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Builds URLs below `root` (a proxy's path prefix, or '') that keep `filters`."""

    root: str
    path: str  # of the page that is shown, below the root
    filters: Mapping[str, str]

    @classmethod
    def of(cls, root: str, path: str, given: Iterable[tuple[str, str]]) -> "Addresses":
        """The URLs of a request; of the parameters `given`, the filters with a value are kept."""
        kept = {name: text for name, text in given if name in FILTERS and text}
        return cls(root, path, kept)

    def link(self, kind: str, value: str) -> str:
        """The permalink of a sender, host, name, trap or message, with the filters as they are."""
        return self.to(place(kind, value))

    def to(self, path: str, **more: str) -> str:
        """`path` with the filters as they are, and `more` in the query."""
        query = urlencode({**self.filters, **more})
        return f"{self.root}{path}" + (f"?{query}" if query else "")

    def shift(self, skip: int, **more: str) -> str:
        """This page, with the newest `skip` messages left out of the list."""
        return self.to(self.path, **more, **({"skip": str(skip)} if skip else {})) + "#messages"

    def form(self, extension: str, **more: str) -> str:
        """What this page shows, for programs: `json` or `csv`; `more` in the query."""
        path = "/overview" if self.path == "/" else self.path
        return self.to(f"{path}.{extension}", **more)

    def evidence(self, kind: str, value: str) -> str:
        """The page that makes an abuse report of this sender's or host's history."""
        return self.to(f"/evidence{place(kind, value)}")

    def zoom(self, start: float, end: float) -> str:
        """This page, for the time from `start` to `end` (Unix seconds)."""
        return self.to(self.path, since=timestamp(start), until=timestamp(end))

    def without_filters(self) -> str:
        """This page without filters."""
        return f"{self.root}{self.path}"
