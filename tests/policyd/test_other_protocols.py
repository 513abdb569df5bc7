"""What is no policy request is not read on, and who may say what of a signature."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fix_store import settings_in
from from_table import from_table
from gatepost_policy.config.settings import Policy
from gatepost_policy.journal.record import Json
from gatepost_policy.lookup import KnownState
from gatepost_policy.monitoring.maillog import MailLog
from gatepost_policy.policyd import server
from gatepost_policy.policyd.service import Service
from policy_client import postfix_request
from ports import free_port

# One message that Exim would report, with a verdict, and one refusal that Postfix would ask about.
SMUGGLED = (
    b"exim stage=dkim id=q1 domain=bank.example selector=s status=pass algorithm=rsa-sha256"
    b" key_bits=2048\n"
    b"exim stage=data id=q1 client_address=192.0.2.1 sender=a@bank.example from=a@bank.example"
    b" recipients=u@home.example\n"
)
ASKED = b"exim stage=data id=z client_address=192.0.2.9 recipients=u@home.example\n"

FIRST_LINES = [
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1:10040\r\nContent-Type: text/plain\r\n\r\n",
    b"POST /?a=b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /a=b HTTP/1.1\r\n\r\n",
    b"PUT /request=smtpd_access_policy HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nOrigin: https://evil.example\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT mail.example:25 HTTP/1.1\r\n\r\n",
    b"EHLO evil.example\r\n",
    b"HELO a=b\r\n",
    b"QUIT\r\n",
    b"USER anonymous\r\nPASS x=y\r\n",
    b"a001 LOGIN x=y z\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"set a 0 0 1\r\nx\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    b"<?xml version='1.0'?>\n",
    b"{\"request\": \"smtpd_access_policy\"}\n",
    b"------WebKitFormBoundaryAbC=\n",
    b"Content-Disposition: form-data; name=\"request\"\n",
    b"request : smtpd_access_policy\n",
    b" request=smtpd_access_policy\n",
    b"request =smtpd_access_policy\n",
    b"\trequest=smtpd_access_policy\n",
    b"=smtpd_access_policy\n",
    b"\0request=smtpd_access_policy\n",
    b"request\n",
    b"EXIM stage=rcpt\n",
    b"exim  stage\n",
    b"exim POST / HTTP/1.1\n",
    b"exim stage=rcpt =x\n",
    b"exim stage=rcpt a\xffb=c\n",
    b"x" * 200 + b"=1\n",
]  # fmt: skip


class Shelf:
    """A journal that keeps its records here."""

    def __init__(self) -> None:
        self.records: list[Json] = []

    def write(self, obj: Json) -> bool:
        self.records.append(obj)
        return True


Talk = Callable[[str, int], Awaitable[None]]


def run(directory: Path, talk: Talk, **policy: Any) -> list[Json]:
    """Talk to a server on a unix socket and on a port; what it recorded."""
    port = free_port()
    listen = [f"unix:{directory}/p", f"inet:{port}@127.0.0.1"]
    settings = settings_in(directory, policy=from_table(Policy, {"listen": listen, **policy}))
    shelf = Shelf()

    async def main() -> None:
        known = KnownState(settings)
        serving = server.Server(Service(settings, known, shelf, MailLog(settings.log)))
        await serving.listen()
        try:
            await asyncio.wait_for(talk(f"{directory}/p", port), 60)
        finally:
            await serving.close()

    asyncio.run(main())
    return shelf.records


def test_a_line_that_is_no_attribute_ends_the_connection(tmp_path: Path) -> None:
    """Whatever follows it, however it is cut, is not read."""

    async def talk(path: str, port: int) -> None:
        for first in FIRST_LINES:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first + SMUGGLED)
            assert await reader.read() in (b"action=DUNNO\n\n", b"OK\n"), first
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            assert await reader.read() in (b"action=DUNNO\n\n", b"OK\n"), first
            writer.close()

    assert len(FIRST_LINES) >= 30
    assert run(tmp_path, talk) == []


def test_what_comes_before_it_is_answered(tmp_path: Path) -> None:
    async def talk(path: str, port: int) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(ASKED + postfix_request("u@home.example") + FIRST_LINES[0] + ASKED)
        assert await reader.read() == b"OK\naction=DUNNO\n\naction=DUNNO\n\n"
        writer.close()

    assert [r["queue_id"] for r in run(tmp_path, talk)] == ["z"]


@pytest.mark.parametrize(("inet_verdicts", "want"), [
    (False, ["neutral", None, "not-believed"]), (True, ["pass", "pass", None]),
])  # fmt: skip
def test_only_who_can_be_the_mta_alone_says_what_was_signed(
    tmp_path: Path, inet_verdicts: bool, want: list[str | None]
) -> None:
    async def talk(path: str, port: int) -> None:
        for number, opening in enumerate(
            (asyncio.open_unix_connection(path), asyncio.open_connection("127.0.0.1", port))
        ):
            reader, writer = await opening
            writer.write(SMUGGLED.replace(b"q1", b"q%d" % number))
            for _ in range(2):
                assert await reader.readline() == b"OK\n"
            writer.close()

    by_unix, by_inet = run(tmp_path, talk, inet_verdicts=inet_verdicts)
    names = ("result", "crypto", "reason")
    assert [by_unix["signatures"][0].get(n) for n in names] == ["pass", "pass", None]
    assert [by_inet["signatures"][0].get(n) for n in names] == want


def test_a_stranger_adds_nothing_to_what_the_mta_said(tmp_path: Path) -> None:
    async def talk(path: str, port: int) -> None:
        mta_in, mta = await asyncio.open_unix_connection(path)
        other_in, other = await asyncio.open_connection("127.0.0.1", port)
        said, finished = SMUGGLED.splitlines(keepends=True)
        for writer, reader in ((mta, mta_in), (other, other_in), (other, other_in)):
            writer.write(said)
            assert await reader.readline() == b"OK\n"
        mta.write(finished)
        assert await mta_in.readline() == b"OK\n"
        mta.close()
        other.close()

    (kept,) = run(tmp_path, talk)
    assert [s["result"] for s in kept["signatures"]] == ["pass"]
