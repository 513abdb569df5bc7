"""The extras of the package (pyproject.toml), and how to install one that is wanted and missing."""


def install(extra: str) -> str:
    """The command that brings `extra`, to be typed as it stands."""
    return f"pip install 'gatepost[{extra}]'"
