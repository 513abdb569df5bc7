"""Out of descriptors: when a worker on libmilter stops accepting, and when it goes on."""

import os
import resource
from types import SimpleNamespace
from typing import Any

import pytest

from gatepost_milter.engine import libmilter_worker

LIMIT = 30


def looks(monkeypatch: pytest.MonkeyPatch, used: list[int], sessions: list[int]) -> list[str]:
    """What the worker does at each look, where so many descriptors and sessions are open."""
    told: list[str] = []
    ours, theirs = os.pipe()
    at = 0

    def listdir(path: object) -> list[str]:
        nonlocal at
        told.append("")
        at = len(told) - 1
        if at == len(used) - 1:
            os.write(theirs, b"q")
        return ["x"] * used[at]

    def note(word: str) -> None:
        told[-1] += word

    listener: Any = SimpleNamespace(
        pause=lambda: note("pause"),
        resume=lambda: note("resume"),
        sessions=lambda: (sessions[at], 0),
    )
    log = SimpleNamespace(event=lambda *words, **fields: None)
    context: Any = SimpleNamespace(gate=SimpleNamespace(log=log))
    monkeypatch.setattr(resource, "getrlimit", lambda what: (LIMIT, LIMIT))
    monkeypatch.setattr(os, "listdir", listdir)
    monkeypatch.setattr(libmilter_worker, "WATCH_S", 0.001)
    try:
        libmilter_worker._wait_for_word(context, listener, ours)
    finally:
        os.close(ours)
        os.close(theirs)
    return told


def test_what_it_needs_itself_does_not_keep_it_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """At rest it holds more than half of what it may: once the sessions are gone it goes on."""
    told = looks(monkeypatch, [25, 22, 18, 18], [9, 5, 0, 0])
    assert told == ["pause", "", "resume", ""]


def test_with_sessions_it_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(monkeypatch, [25, 18, 13, 13], [9, 5, 2, 2]) == ["pause", "", "resume", ""]


def test_nothing_is_left_to_count_the_sessions_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting takes one: that none was found says nothing then."""
    told = looks(monkeypatch, [LIMIT, LIMIT, 13, 13], [0, 0, 0, 0])
    assert told == ["pause", "", "resume", ""]
