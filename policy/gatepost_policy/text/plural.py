"""Count things in words: `1 message`, `2 messages`. Pure."""


def plural(count: int | str, word: str) -> str:
    """`1 message`, `2 messages`; `count` may be a figure in text (`1`, `1.5`)."""
    return f"{count} {word}" if str(count) == "1" else f"{count} {word}s"
