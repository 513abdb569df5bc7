"""How to install an extra of the package (pyproject.toml) that is missing."""


def install(extra: str) -> str:
    """The shell command that installs `extra`."""
    return f"pip install 'gatepost[{extra}]'"
