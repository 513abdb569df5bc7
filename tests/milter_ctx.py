"""libmilter's side of one connection, without libmilter."""

from typing import Any


class Ctx:
    """libmilter's side of one connection, recorded: macros in, replies out."""

    def __init__(self) -> None:
        self.private: Any = None
        self.macros: dict[str, str] = {"j": "mx.example.net", "v": "Postfix 3.7.11", "i": "4ABC"}
        self.replies: list[tuple[str, ...]] = []
        self.edits: list[tuple[str, int, str]] = []  # name, place, value

    def setpriv(self, value: Any) -> None:
        self.private = value

    def getpriv(self) -> Any:
        return self.private

    def getsymval(self, name: str) -> str | None:
        return self.macros.get(name)

    def setreply(self, *parts: str) -> None:
        self.replies.append(parts)

    def addheader(self, name: str, value: str, index: int) -> None:
        assert "\r" not in value
        self.edits.append((name, index, value))

    def chgheader(self, name: str, index: int, value: str) -> None:
        self.addheader(name, value, index)

    def delrcpt(self, recipient: str) -> None: ...
