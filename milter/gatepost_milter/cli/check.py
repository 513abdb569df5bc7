"""`milterctl check`: the doctor. `check postfix` and `check exim` look at the MTA."""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gatepost_milter.cli.common import FINDINGS, UNREACHABLE, USAGE, App, note
from gatepost_milter.cli.options import FORMAT
from gatepost_policy.config import ConfigError
from gatepost_policy.text.escape import shown

if TYPE_CHECKING:
    from gatepost_milter.doctor.installation import Finding
    from gatepost_policy.config.settings import Settings


class MtaGroup(click.Group):
    """The group `check`, whose commands for the MTAs are imported only when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The MTAs that can be checked."""
        return ["postfix", "exim"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this MTA."""
        if cmd_name not in self.list_commands(ctx):
            return None
        from gatepost_milter.cli import check_mta

        command = getattr(check_mta, cmd_name)
        assert isinstance(command, click.Command), cmd_name
        return command


@click.group(cls=MtaGroup, invoke_without_command=True)
@FORMAT
@click.pass_context
def command(context: click.Context, form: str) -> None:
    """Look for what is wrong, and say which line to change.

    Looks at the configuration, the state directory, store and journal, the recorder, the traps
    and the sockets, and asks the resolvers. Changes nothing. Exit code 1 with findings, 3 where
    store or a socket does not answer.
    """
    if context.invoked_subcommand is not None:
        return
    app: App = context.obj
    try:
        settings = app.settings
    except ConfigError as error:
        for line in error.problems:
            note(f"milterctl: {shown(line)}")
        raise SystemExit(USAGE) from None
    from gatepost_milter.doctor import installation, resolvers

    findings = [
        *installation.examine(settings, app.config_path, time.time()),
        *_owners(settings),
        *_sockets(settings),
        *resolvers.examine(settings),
    ]
    if form == "json":
        print(json.dumps([_json(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            _print(finding)
    if any(finding.unreachable for finding in findings):
        raise SystemExit(UNREACHABLE)
    if any(finding.problem for finding in findings):
        raise SystemExit(FINDINGS)


def _owners(settings: "Settings") -> "Iterator[Finding]":
    from gatepost_milter.doctor.installation import Finding
    from gatepost_milter.doctor.ownership import foreign
    from gatepost_policy import config

    state = config.state_dir(settings)
    path = config.database_path(settings)
    found = sorted(foreign(state, "" if path is None else path.name)) if state.exists() else []
    if found:
        yield Finding(
            "state",
            str(found[0]),
            f"does not belong to the owner of {state}"
            + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""),
            f"chown --reference={state} {' '.join(map(str, found[:5]))}",
        )


def _sockets(settings: "Settings") -> "Iterator[Finding]":
    from gatepost_milter.cli.run_services import listeners
    from gatepost_milter.doctor.installation import Finding
    from gatepost_policy.system import sockets

    for key, address in listeners(settings):
        service = "gatepost-policyd" if key == "policy.listen" else "gatepost-milter"
        if sockets.answers(address):
            yield Finding(key, f"{address} answers")
        else:
            yield Finding(
                key,
                str(address),
                "nobody answers there",
                f"start {service} (systemctl start {service}, or milterctl run)",
                unreachable=True,
            )


def _json(finding: "Finding") -> dict[str, str | bool | None]:
    return {
        "what": finding.what,
        "ok": finding.problem is None,
        "state": finding.state,
        "problem": finding.problem,
        "change": finding.change,
    }


def _print(finding: "Finding") -> None:
    if finding.problem is None:
        print(f"ok       {finding.what}: {shown(finding.state)}")
        return
    where = f" {shown(finding.state)}:" if finding.state else ""
    print(f"PROBLEM  {finding.what}:{where} {shown(finding.problem)}")
    if finding.change:
        print(f"         change: {shown(finding.change)}")
