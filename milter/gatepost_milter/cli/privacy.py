"""`milterctl privacy`: what outgoing mail still tells about its sender."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli.common import FINDINGS, UNREACHABLE, USAGE, App, Failure, note

if TYPE_CHECKING:
    from gatepost_policy.scrub.audit import Finding

FORM = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="A table, or JSON for programs.",
)  # fmt: skip
PASSWORD = "GATEPOST_PASSWORD"  # noqa: S105  the name of a variable, not a password


@click.group()
def command() -> None:
    """Look for what outgoing mail still tells.

    Exit code 1 when anything leaks. Hints, which stay by default or by design, do not count.
    """


@command.command("audit", short_help="Read saved messages and say what each one tells.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@FORM
@click.pass_obj
def audit(app: App, files: tuple[str, ...], form: str) -> None:
    """Read saved messages (.eml, mbox, Maildir, directories, .gz) and say what each one tells."""
    from gatepost_milter.replay import saved_mail
    from gatepost_policy.scrub import audit as leaks

    bad, empty = False, True
    for path in saved_mail.find(list(files)):
        for item in saved_mail.read(path):
            empty = False
            if item.error is not None:
                bad = True
                found: tuple[Finding, ...] = ()
                note(f"milterctl: {item.file}: {item.error}")
            else:
                found = leaks.find(item.data, submission=app.settings.submission)
            if form == "json":
                print(json.dumps({
                    "file": item.file, "leaks": _leaks(found),
                    "findings": [_json(f) for f in found], "error": item.error,
                }))  # fmt: skip
            elif item.error is None:
                _show(item.file, found)
            bad = bad or bool(_leaks(found))
    if empty:
        note("milterctl: no message found there")
    if bad:
        raise SystemExit(FINDINGS)


@command.command("test")
@click.option("--host", default="127.0.0.1", show_default=True, help="The submission server.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", default=587, show_default=True,
              help="Its port.")  # fmt: skip
@click.option("--tls", type=click.Choice(["starttls", "tls", "none"]), default="starttls",
              show_default=True, help="tls: from the first byte, as on port 465.")  # fmt: skip
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@click.option("--login", default="", help="Who to log in as; without it, no login.")
@click.option("--password-file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help=f"Its first line is the password; else ${PASSWORD}, else asked for.",
              )  # fmt: skip
@click.option("--sender", required=True, metavar="ADDRESS", help="MAIL FROM of the probe.")
@click.option("--recipient", required=True, metavar="ADDRESS", help="RCPT TO of the probe.")
@click.option("--mailbox", type=click.Path(path_type=Path), metavar="PATH",
              help="The mbox file or Maildir that the recipient's mail is delivered to.",
              )  # fmt: skip
@click.option("--sink", metavar="SOCKET",
              help="Receive the probe here, such as inet:2525@127.0.0.1, where you route the "
              "recipient to.")  # fmt: skip
@click.option("--timeout", type=click.IntRange(1, 3600), metavar="N", default=60, show_default=True,
              help="Seconds to wait for the probe.")  # fmt: skip
@FORM
@click.pass_obj
def test(
    app: App, /, form: str, mailbox: Path | None, sink: str | None, **options: Any
) -> None:  # fmt: skip
    """Send a probe through a real submission port and say what still leaks."""
    from gatepost_milter.doctor import privacy_probe
    from gatepost_policy.scrub import audit as leaks

    if (mailbox is None) == (sink is None):
        raise click.UsageError("Say where the probe arrives: either --mailbox or --sink.")
    settings = app.settings
    target = privacy_probe.Target(
        host=options["host"], port=options["port"], sender=options["sender"],
        recipient=options["recipient"], login=options["login"],
        password=_password(options["login"], options["password_file"]),
        tls=options["tls"], verify=not options["insecure"],
    )  # fmt: skip
    probe = privacy_probe.make(target, settings)
    try:
        if mailbox is not None:
            address, port = privacy_probe.send(target, probe)
            look = privacy_probe.in_mailbox(mailbox, probe)
            data = privacy_probe.wait(look, options["timeout"])
        else:
            host, number = _sink(sink or "")
            with privacy_probe.sink(host, number, probe) as look:
                address, port = privacy_probe.send(target, probe)
                data = privacy_probe.wait(look, options["timeout"])
    except privacy_probe.ProbeError as error:
        raise Failure(str(error), UNREACHABLE if error.unreachable else FINDINGS) from None
    found = leaks.find(data, probe.known(target, address, port), settings.submission)
    if form == "json":
        header = data.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
        print(json.dumps({
            "leaks": _leaks(found), "findings": [_json(f) for f in found],
            "header": header.decode("utf-8", "replace").split("\n"),
        }, indent=2))  # fmt: skip
    else:
        _show(f"probe through {target.host}:{target.port}", found)
    if _leaks(found):
        raise SystemExit(FINDINGS)


def _sink(text: str) -> tuple[str, int]:
    from gatepost_policy.system.socket_address import SocketAddress

    try:
        address = SocketAddress.parse(text)
        if address.kind == "unix":
            raise ValueError("want inet:PORT@ADDRESS")
    except ValueError as error:
        raise click.UsageError(f"--sink: {error}") from None
    return address.host, address.port


def _password(login: str, file: Path | None) -> str:
    """Never on the command line, where every user of the host could read it."""
    if not login:
        return ""
    if file is not None:
        return file.read_text().splitlines()[0]
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, err=True))
    raise Failure(f"no password for {login}: --password-file FILE or ${PASSWORD}", USAGE)


def _leaks(found: Sequence["Finding"]) -> int:
    return sum(f.weight == "leak" for f in found)


def _json(finding: "Finding") -> dict[str, str | int | None]:
    return {
        "field": finding.name, "index": finding.index, "value": finding.value,
        "tells": finding.tells, "setting": finding.setting, "weight": finding.weight.value,
    }  # fmt: skip


def _show(what: str, found: Sequence["Finding"]) -> None:
    """One line a finding on a pipe, a table on a terminal."""
    from gatepost_policy.text import terminal
    from gatepost_policy.text.escape import shown

    count = _leaks(found)
    print(f"{shown(what)}: {'clean' if not count else f'{count} leak' + 's' * (count > 1)}")
    if not found:
        return
    to = terminal.console(sys.stdout)
    table = terminal.plain("", "field", "tells", "removed by", to=to)
    for f in found:
        name = f.name if f.index == 1 else f"{f.name} #{f.index}"
        table.add_row(f.weight.value, shown(name), shown(f.tells), f.setting or "nothing: it stays")
    terminal.put(to, table)
