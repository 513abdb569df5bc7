"""`milterctl privacy`: what outgoing mail still tells about its sender."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli.common import FINDINGS, UNREACHABLE, USAGE, App, Failure, note
from gatepost_milter.cli.options import FORMAT

if TYPE_CHECKING:
    from gatepost_milter.doctor.privacy_probe import Look, Probe, Target
    from gatepost_milter.doctor.privacy_ways import Tried
    from gatepost_policy.scrub.audit import Finding

PASSWORD = "GATEPOST_PASSWORD"  # noqa: S105  the name of a variable, not a password


@click.group()
def command() -> None:
    """Look for what outgoing mail still tells.

    Exit code 1 when anything leaks. Hints, which stay by default or by design, do not count.
    """


@command.command("audit", short_help="Read saved messages and say what each one tells.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@FORMAT
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
@click.option("--sender", default="", metavar="ADDRESS",
              help="MAIL FROM of the probe; else you on this host.")  # fmt: skip
@click.option("--recipient", default="", metavar="ADDRESS",
              help="RCPT TO of the probe; else you on this host.")  # fmt: skip
@click.option("--mailbox", type=click.Path(path_type=Path), metavar="PATH",
              help="The mbox file or Maildir that the recipient's mail is delivered to; else "
              "the usual ones.")  # fmt: skip
@click.option("--sink", metavar="SOCKET",
              help="Receive the probe here, such as inet:2525@127.0.0.1, where you route the "
              "recipient to.")  # fmt: skip
@click.option("--timeout", type=click.IntRange(1, 3600), metavar="N", default=60, show_default=True,
              help="Seconds to wait for the probe.")  # fmt: skip
@click.option("--every-way", is_flag=True,
              help="Try the submission port, port 25 from this host and sendmail(1). Without "
              "--login, --mailbox and --sink this is what is done.")  # fmt: skip
@click.option("--smtp-port", type=click.IntRange(1, 65535), metavar="N", default=25,
              show_default=True, help="The port for mail from outside.")  # fmt: skip
@click.option("--record", is_flag=True, help="Keep the result for the metrics.")
@FORMAT
@click.pass_obj
def test(app: App, /, form: str, **options: Any) -> None:
    """Send a probe through a real submission port and say what still leaks.

    Without --login it tries what needs none: port 25 from this host, and sendmail(1). A way that
    was not tried is not clean: then, and with any leak, the exit code is 1.
    """
    from gatepost_milter.doctor import privacy_probe, privacy_ways

    mailbox, sink = options["mailbox"], options["sink"]
    if mailbox is not None and sink is not None:
        raise click.UsageError("Say where the probe arrives: either --mailbox or --sink.")
    own = privacy_ways.own_address()
    target = privacy_probe.Target(
        host=options["host"], port=options["port"], sender=options["sender"] or own,
        recipient=options["recipient"] or own, login=options["login"],
        password=_password(options["login"], options["password_file"]),
        tls=options["tls"], verify=not options["insecure"], timeout=options["timeout"],
    )  # fmt: skip
    one = bool(options["login"] or mailbox is not None or sink is not None)
    if one and not options["every_way"]:
        _one_way(app, form, target, options)
    else:
        _every_way(app, form, target, options)


def _every_way(app: App, form: str, target: "Target", options: dict[str, Any]) -> None:
    """Try each way by itself; one that could not be tried is not clean."""
    from dataclasses import replace

    from gatepost_milter.doctor import privacy_ways as ways

    if options["sink"] is not None:
        raise click.UsageError("--every-way reads the probes from a mailbox, not from --sink.")
    mailbox = options["mailbox"]
    user = target.recipient.partition("@")[0]
    paths = (mailbox,) if mailbox is not None else ways.mailboxes(user)

    def look(probe: "Probe") -> "Look":
        return ways.anywhere(paths, probe)

    if target.login:
        submission = ways.by_smtp(ways.SUBMISSION, target, app.settings, look)
    else:
        missed = f"say who logs in: milterctl privacy test --every-way --login USER, on port " \
            f"{target.port}"  # fmt: skip
        submission = ways.Tried(ways.SUBMISSION, f"{target.host}:{target.port}", missed=missed)
    outside = replace(target, port=options["smtp_port"], login="", password="", tls="none")
    tried = [
        submission,
        ways.by_smtp(ways.PORT_25, outside, app.settings, look),
        ways.by_sendmail(target.sender, target.recipient, app.settings, look, target.timeout),
    ]
    if form == "json":
        print(json.dumps([{
            "way": t.way, "where": t.where, "clean": t.clean, "not_tried": t.missed or None,
            "reason": t.reason or None, "leaks": t.leaks,
            "findings": [_json(f) for f in t.findings],
            "header": t.header.decode("utf-8", "replace").split("\n") if t.header else [],
        } for t in tried], indent=2))  # fmt: skip
    else:
        for one in tried:
            _tell(one)
    if options["record"]:
        _record(app, {t.way: t.clean for t in tried})
    if not all(t.clean for t in tried):
        raise SystemExit(FINDINGS)


def _tell(tried: "Tried") -> None:
    """Print the result of one way."""
    from gatepost_policy.text.escape import shown
    from gatepost_policy.text.plural import plural

    what = f"{tried.way} {tried.where}"
    if tried.missed:
        print(f"{shown(what)}: not tried: {shown(tried.missed)}")
    elif tried.reason:
        print(f"{shown(what)}: {plural(tried.leaks, 'leak')}")
        print(f"  not kept: {shown(tried.reason)}")
    else:
        _show(what, tried.findings)


def _record(app: App, clean: dict[str, bool]) -> None:
    import time

    from gatepost_policy import config
    from gatepost_policy.monitoring import privacy_result

    state = config.state_dir(app.settings)
    try:
        privacy_result.write(state, privacy_result.Result(time.time(), clean))
    except OSError as error:
        raise Failure(f"{state}: {error.strerror}; the metrics do not hear of this") from None


def _one_way(app: App, form: str, target: "Target", options: dict[str, Any]) -> None:
    """Try the submission port alone."""
    from gatepost_milter.doctor import privacy_probe, privacy_ways
    from gatepost_policy.scrub import audit
    from gatepost_policy.text.escape import shown

    mailbox, sink, settings = options["mailbox"], options["sink"], app.settings
    if mailbox is None and sink is None and options["recipient"]:
        raise click.UsageError("Say where the probe arrives: either --mailbox or --sink.")
    probe = privacy_probe.make(target, settings)
    try:
        if sink is None:
            user = target.recipient.partition("@")[0]
            paths = (mailbox,) if mailbox is not None else privacy_ways.mailboxes(user)
            address, port = privacy_probe.send(target, probe)
            known = probe.known(target, address, port)
            leaks = privacy_ways.leaks(known, settings)
            look = privacy_ways.anywhere(paths, probe)
            data = privacy_probe.wait(look, options["timeout"], leaks)
        else:
            host, number = _sink(sink or "")
            with privacy_probe.sink(host, number, probe) as look:
                address, port = privacy_probe.send(target, probe)
                known = probe.known(target, address, port)
                leaks = privacy_ways.leaks(known, settings)
                data = privacy_probe.wait(look, options["timeout"], leaks)
    except privacy_probe.ProbeError as error:
        raise Failure(str(error), UNREACHABLE if error.unreachable else FINDINGS) from None
    found = audit.find(data, known, settings.submission)
    reason = privacy_ways.reason(privacy_ways.SUBMISSION, probe, data, address, target, settings)
    if options["record"]:
        _record(app, {privacy_ways.SUBMISSION: not _leaks(found)})
    if form == "json":
        header = data.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
        print(json.dumps({
            "leaks": _leaks(found), "findings": [_json(f) for f in found],
            "header": header.decode("utf-8", "replace").split("\n"), "reason": reason or None,
        }, indent=2))  # fmt: skip
    else:
        _show(f"probe through {target.host}:{target.port}", found)
        if reason:
            print(f"  not kept: {shown(reason)}")
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
    """The password, from the file, the environment or a prompt. Never an option's value: every user
    of the host can read command lines. Raises Failure."""
    if not login:
        return ""
    if file is not None:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "no UTF-8 text"
            raise Failure(f"{file}: {why}; want the password in its first line", USAGE) from None
        if not lines or not lines[0]:
            raise Failure(f"{file} is empty; want the password in its first line", USAGE)
        return lines[0]
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
    """Print the findings: one line each on a pipe, a table on a terminal."""
    from gatepost_policy.text import terminal
    from gatepost_policy.text.escape import shown
    from gatepost_policy.text.fitted import fitted

    count = _leaks(found)
    print(f"{shown(what)}: {'clean' if not count else f'{count} leak' + 's' * (count > 1)}")
    if not found:
        return
    to = terminal.console(sys.stdout)
    table = terminal.plain("", "field", "tells", "removed by", to=to)
    for f in found:
        name = f.name if f.index == 1 else f"{f.name} #{f.index}"
        table.add_row(f.weight.value, shown(name), shown(f.tells), f.setting or "nothing: it stays")
    terminal.put(to, fitted(table, to, "field", "removed by"))
