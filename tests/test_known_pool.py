"""What the milter's workers read the store through."""

from contextlib import ExitStack

from sqlalchemy import Engine, event

from gatepost_policy import known
from gatepost_policy.settings import Settings


def test_no_connection_is_closed(engine: Engine, settings: Settings) -> None:
    """However many were open at once: to close one in libmilter's threads crashes the worker."""
    reader = known._reader(settings)
    closed: list[object] = []
    event.listen(reader, "close", lambda *call: closed.append(call))
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(reader.connect())
    assert not closed
    reader.dispose()
