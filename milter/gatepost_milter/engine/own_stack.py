"""Tell Python on which thread's stack a callback of libmilter runs (Python 3.14 and later).

libmilter takes the commands of one connection to any thread of its pool, and pymilter takes the
connection's one Python thread state along. Since 3.14 such a state knows where the stack of its
first thread ends. On a stack that lies below, every list and tuple that is freed counts as nested
too deeply: it is put aside, with all it holds, until the state runs further up again. A body of
5 MB half-way held 50 MB like this.

`PyUnstable_ThreadState_ResetStackProtection` does not help: it goes back to the first stack.
"""

import sys
import threading
from collections.abc import Callable
from threading import get_ident
from typing import Any

Callback = Callable[..., int]
LIMITS = (3, 14)  # the release that has them
ATTRIBUTES = 32  # words for a pthread_attr_t, which takes 7 or 8


class _Seen(threading.local):
    """What belongs to a thread state, not to a thread: the thread that it ran on last."""

    thread = 0


def on_own_stack() -> Callable[[Callback], Callback]:
    """What to wrap each callback in. Where Python has no such limits, or the system does not tell
    where a stack lies, the callbacks stay as they are."""
    if sys.version_info[:2] < LIMITS:
        return _as_it_is
    try:
        settle = _settler()
    except AttributeError:  # the first releases of 3.14; systems without pthread_getattr_np
        return _as_it_is
    seen = _Seen()

    def wrap(callback: Callback) -> Callback:
        def called(*args: Any) -> int:
            thread = get_ident()  # the system's word: the state itself names its first thread
            if seen.thread != thread:
                if seen.thread:
                    settle(thread)
                seen.thread = thread
            return callback(*args)

        return called

    return wrap


def _as_it_is(callback: Callback) -> Callback:
    return callback


def _settler() -> Callable[[int], None]:
    """A function that gives the current thread state the limits of the current thread's stack.
    Raises AttributeError where there is no way to."""
    import ctypes  # only where it is needed

    library = ctypes.pythonapi  # calls keep the GIL
    pointer, size_t = ctypes.c_void_p, ctypes.c_size_t
    state, protect = library.PyThreadState_Get, library.PyUnstable_ThreadState_SetStackProtection
    state.restype, protect.argtypes = pointer, [pointer, pointer, size_t]
    getattr_np, getstack = library.pthread_getattr_np, library.pthread_attr_getstack
    getguard, destroy = library.pthread_attr_getguardsize, library.pthread_attr_destroy
    getattr_np.argtypes = [ctypes.c_ulong, pointer]

    def settle(thread: int) -> None:
        attributes = (ctypes.c_uint64 * ATTRIBUTES)()
        if getattr_np(thread, attributes):
            return
        start, size, guard = pointer(), size_t(), size_t()
        getstack(attributes, ctypes.byref(start), ctypes.byref(size))
        getguard(attributes, ctypes.byref(guard))
        destroy(attributes)
        protect(state(), (start.value or 0) + guard.value, size.value - guard.value)

    return settle
