"""An MTA and the native engine in one process: the harness's session, the engine's dialogue, no
socket and no thread. Cut what is sent as you like: `cut` says in how large pieces it arrives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gatepost_milter.engine.dialogue import Dialogue
from gatepost_milter.filter.context import Context
from gatepost_milter.mta import client
from gatepost_milter.mta.wire import ProtocolError, Wire


class DialogueWire(Wire):
    """What `Wire` is to a socket, to a dialogue."""

    def __init__(self, context: Context, cut: Callable[[bytes], Iterator[bytes]]) -> None:
        self.dialogue = Dialogue(context)
        self._cut = cut
        self._pending = []
        self._pending_bytes = 0
        self._buffer = bytearray()

    def flush(self) -> None:
        data, self._pending, self._pending_bytes = b"".join(self._pending), [], 0
        for piece in self._cut(data) if data else ():
            self._buffer += self.dialogue.feed(piece)
            while self.dialogue.blocked:
                self.dialogue.work()
                self._buffer += self.dialogue.feed(b"")

    def _take(self, count: int) -> bytes:
        if len(self._buffer) < count:
            raise ProtocolError("milter did not answer")
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def close(self) -> None:
        self.dialogue.close()


def whole(data: bytes) -> Iterator[bytes]:
    """Uncut."""
    yield data


def octets(data: bytes) -> Iterator[bytes]:
    """One octet after the other."""
    for octet in data:
        yield bytes([octet])


@dataclass(slots=True)
class InProcess(client.Session):
    """A session of the harness with the native engine's dialogue."""

    context: Any = None
    cut: Callable[[bytes], Iterator[bytes]] = whole

    def _wire(self) -> Wire:
        return DialogueWire(self.context, self.cut)
