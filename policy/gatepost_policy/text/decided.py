"""A decision in words: ours with its reason, or what a log says that the mail server did."""

DONE = {
    "accept": "accepted",  # it may have waited in the queue when the log ended
    "discard": "discarded",
    "reject": "refused",
    "tempfail": "put off",
}


def by_log(source: str) -> bool:
    """True for a message from an imported log: no rule of ours was asked."""
    return source.endswith("-log")


def decided(action: str, reason: str, source: str, *, brackets: bool = True) -> str:
    """`reject (trap)`, or `reject trap` without `brackets`; of a message from an imported log
    `refused by the MTA`."""
    if by_log(source):
        return f"{DONE.get(action, action)} by the MTA"
    return f"{action} ({reason})" if brackets else f"{action} {reason}"
