"""`milterctl check postfix` and `check exim`: read the live MTA, say which line to change."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from gatepost_milter.cli.common import FINDINGS, USAGE, App, Failure, note
from gatepost_milter.cli.options import FORMAT
from gatepost_milter.doctor.finding import Finding
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("postfix", short_help="Look at a live Postfix.")
@click.option("-c", "--config-directory", type=FOLDER, metavar="DIR",
              help="Postfix's configuration, else its own default.")  # fmt: skip
@click.option("--command-directory", type=FOLDER, metavar="DIR",
              help="Where postconf and postmap are.")  # fmt: skip
@FORMAT
@click.pass_obj
def postfix(
    app: App, config_directory: Path | None, command_directory: Path | None, form: str
) -> None:
    """Look at a live Postfix: does gatepost see the mail, and does nothing leak past it?"""
    from gatepost_milter.doctor import postfix as postfix_checks
    from gatepost_milter.doctor import postfix_config, postfix_warnings

    settings = app.settings
    try:
        live = postfix_config.read(config_directory, command_directory)
    except postfix_config.Unreadable as error:
        raise Failure(str(error), USAGE) from None
    findings = postfix_checks.check(live, settings)
    unchecked = postfix_checks.unchecked(live, settings)
    names = [s.name for s in live.smtpd()]
    what = f"Postfix in {live.directory}, {plural(len(names), 'listener')} ({', '.join(names)})"
    _finish(findings, what, form, unchecked, postfix_warnings.notes(live, settings))


@click.command("exim", short_help="Look at a live Exim.")
@click.option("--exim-config", type=FILE, metavar="FILE",
              help="Exim's configuration, else its own default.")  # fmt: skip
@click.option("--exim", "program", type=FILE, metavar="FILE", help="The exim program.")
@FORMAT
@click.pass_obj
def exim(app: App, exim_config: Path | None, program: Path | None, form: str) -> None:
    """Look at a live Exim: is gatepost-policyd asked, and does submitted mail lose what tells?"""
    from gatepost_milter.doctor import exim as exim_checks
    from gatepost_milter.doctor import exim_config as reader
    from gatepost_milter.doctor.postfix_config import Unreadable

    settings = app.settings
    try:
        live = reader.read(exim_config, program)
    except Unreadable as error:
        raise Failure(str(error), USAGE) from None
    _finish(exim_checks.check(live, settings), "Exim", form, exim_checks.unchecked(live))


def _finish(
    findings: Sequence[Finding],
    what: str,
    form: str,
    unchecked: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Print all, and leave with 1 where there are findings. Warnings are not findings: with JSON,
    whose list holds findings only, they go to stderr."""
    if form == "json":
        for one in warnings:
            note(f"milterctl: {shown(one)}")
        print(json.dumps([
            {"code": f.code, "where": f.where, "problem": f.problem, "change": f.change}
            for f in findings
        ], indent=2))  # fmt: skip
    else:
        for finding in findings:
            print(f"PROBLEM  {shown(finding.where)}: {shown(finding.problem)} [{finding.code}]")
            print(f"         change: {shown(finding.change.strip())}")
        for one in warnings:
            print(f"warning  {shown(one)}")
        for one in unchecked:
            print(f"unknown  not looked at: {shown(one)}")
        if not findings:
            how = (
                "nothing to change" if not unchecked else "nothing to change in what was looked at"
            )
            print(f"ok       {shown(what)}: {how}")
    if findings:
        raise SystemExit(FINDINGS)
