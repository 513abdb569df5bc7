"""Write the table of rooms in docs/rooms.md: what each package says of itself in its first line.

The order is that of the layers in pyproject.toml, top to bottom, so that page and contract cannot
differ. With --check nothing is written; the exit code says whether the table is up to date.
"""

import ast
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "rooms.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- end of rooms -->\n"
FOLDERS = {"gatepost_milter": "milter", "gatepost_policy": "policy"}


def promise(package: Path) -> str:
    """The first line of a package's docstring."""
    doc = ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8")))
    assert doc, f"{package}: no docstring"
    return doc.splitlines()[0]


def table() -> str:
    """The rooms of both packages, highest layer first, rooms of one layer in one row's rank."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    lines: list[str] = []
    layered = [each for each in contracts["contracts"] if each["type"] == "layers"]
    for contract in sorted(layered, key=lambda each: str(each["containers"])):
        (package,) = contract["containers"]
        lines += [f"`{package}`:", "", "| layer | room | what it is for |", "|---|---|---|"]
        for rank, layer in zip(
            range(len(contract["layers"]), 0, -1), contract["layers"], strict=True
        ):
            for room in (name.strip() for name in layer.split("|")):
                where = ROOT / FOLDERS[package] / package / room
                if where.is_dir():
                    link = f"../{where.relative_to(ROOT).as_posix()}"
                    lines.append(f"| {rank} | [{room}]({link}) | {promise(where)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Write the table, or with --check say whether it is what is there."""
    page = PAGE.read_text("utf-8")
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    fresh = f"{head}{BEGIN}\n{table()}\n{END}{tail}"
    if "--check" in sys.argv[1:]:
        if page != fresh:
            print("docs/rooms.md: the table of rooms is not what the packages say; run `make docs`")
        return int(page != fresh)
    PAGE.write_text(fresh, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
