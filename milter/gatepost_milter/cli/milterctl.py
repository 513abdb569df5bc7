"""`milterctl`: the entry of all commands. A command's module is imported only when it is used.

Errors come out as one line on stderr. Exit codes: 0 fine, 1 findings or a file that failed,
2 usage or configuration, 3 store or socket not reachable.
"""

import importlib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from gatepost_milter.cli.common import FINDINGS, UNREACHABLE, USAGE, App, Failure
from gatepost_policy.config import ConfigError, DeniedError
from gatepost_policy.system import std_files
from gatepost_policy.system.garbage import collect_less_often
from gatepost_policy.text.escape import shown

# name: (module with a click command called `command`, its first help line). The help is repeated
# here so that `milterctl --help` imports no module; a test compares the two.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Run milter and policy service in the foreground."),
    "report": ("report", "Tell the history: of one sender, host or trap, or of all."),
    "tail": ("tail", "Messages as they come, with the report's filters."),
    "why": ("why", "Why a message was decided so, and what would be said now."),
    "stat": ("stat", "Count messages by action and reason."),
    "trap": ("trap", "The traps: addresses that nobody was ever given."),
    "sender": ("sender", "Repeat senders and listings."),
    "replay": ("replay", "Put saved mail through the real milter."),
    "import": ("import_logs", "Back-fill the history from MTA logs."),
    "watch": ("watch", "Follow MTA logs while they are written."),
    "notify": ("notify", "Tell people about events: command, webhook, mail, feed."),
    "export": ("export", "Write the current listings for other programs."),
    "setup": ("setup", "Put gatepost into a mail server: what to change, or do it."),
    "check": ("check", "Look for what is wrong, and say which line to change."),
    "config": ("config_show", "The configuration in force."),
    "privacy": ("privacy", "Look for what outgoing mail still tells."),
    "trace": ("trace", "Accountable anonymity: who wrote a message, for who has the key."),
    "db": ("db", "The store's schema and retention."),
    "data": ("data", "One person's data: export or erase it."),
    "backtest": ("backtest", "What a changed configuration would have decided differently."),
    "web": ("web", "The live page."),
    "completion": ("completion", "Print the script for completion in your shell."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the manual's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gatepost_milter.cli.{COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command), cmd_name
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Without this, click would end with code 1 where the reader of a pipe
        has closed it (`| head`)."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _nobody_reads()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the list of commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 1 findings or a file that failed, 2 usage or configuration, "
    "3 store or socket not reachable.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration; else $GATEPOST_CONFIG, ./gatepost.toml, /etc/gatepost/gatepost.toml.",
)
@click.option("--store", metavar="URL", help="Use this store instead of the configured one.")
@click.version_option(package_name="gatepost", prog_name="milterctl")
@click.pass_context
def cli(context: click.Context, config_file: Path | None, store: str | None) -> None:
    """gatepost hides the senders you have and remembers the ones who knock."""
    if store == "":
        # --store "$UNSET" in a script must not use the service's own store.
        raise click.BadParameter("want a URL or a file's name, got nothing", param_hint="--store")
    context.obj = App(config_file, store)
    context.call_on_close(context.obj.close)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `milterctl` and leave the process with the exit code of the manual."""
    std_files.ensure()
    collect_less_often()  # else an eighth of the time until a report is there
    # Characters outside the locale's encoding are escaped; else print would raise.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        try:
            code = cli.main(arguments, prog_name="milterctl", standalone_mode=False)
        except SystemExit as done:  # a command ends so with code 1, findings
            code = done.code
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return USAGE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "milterctl"
        # Click lists choices on a line each.
        message = re.sub(r"([:,])\n\t", r"\1 ", error.format_message()).rstrip(".")
        # Remove click's own guess: ours (`_meant`) is a whole command that can be pasted.
        message = re.sub(r"^(No such command '.+?')\..*", r"\1", message)
        if isinstance(error, click.NoSuchOption) and (form := _form_meant(error)):
            message = f"No such option '{error.option_name}'. Did you mean '--format {form}'?"
        end = "" if message.endswith("?") else "."
        return _fail(f"{message}{end}{_meant(error, message)} See '{command} --help'.", USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), FINDINGS)
    except (click.Abort, KeyboardInterrupt):
        return 130  # 128 + SIGINT, as a shell reports it
    except DeniedError as error:
        return _fail(f"{error}; {_as_user('gatepost', arguments)}", UNREACHABLE)
    except ConfigError as error:
        return _fail(str(error), USAGE)
    except Failure as error:
        return _fail(str(error), error.code)
    except BrokenPipeError:
        _nobody_reads()
        return 0
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _nobody_reads()  # if stdout itself failed, its flush at exit would fail again
        return _fail(what, UNREACHABLE if isinstance(error, ConnectionError) else FINDINGS)
    except Exception as error:
        if _is_store_error(error):
            owner = getattr(error, "owner", None)
            hint = "" if owner is None else f"; {_as_user(owner, arguments)}"
            return _fail(f"{error}{hint}", UNREACHABLE)
        raise  # a bug: show the traceback


def _meant(error: click.UsageError, message: str) -> str:
    """The command that was probably meant where one was mistyped; else ''."""
    context = error.ctx
    if context is None:
        return ""
    mistyped = re.fullmatch(r"No such command '(.+)'", message)
    if mistyped and isinstance(context.command, click.Group):
        from difflib import get_close_matches

        near = get_close_matches(mistyped[1], context.command.list_commands(context), 1, 0.5)
        if context.parent is None and (below := _below(context, mistyped[1])):
            near = below
        meant = " or ".join(f"'{context.command_path} {name}'" for name in near)
        return f" Did you mean {meant}?" if near else ""
    return ""


def _form_meant(error: click.NoSuchOption) -> str:
    """The form that was asked for where it stands as an option: `csv` of `--csv`; else ''."""
    form = error.option_name.lstrip("-")
    for parameter in error.ctx.command.params if error.ctx else ():
        if parameter.name == "form" and isinstance(parameter.type, click.Choice):
            return form if form in parameter.type.choices else ""
    return ""


def _below(context: click.Context, name: str) -> list[str]:
    """Commands of this name that stand below another one: `db purge` for `purge`."""
    assert isinstance(context.command, click.Group)
    found: list[str] = []
    for above in context.command.list_commands(context):
        group = context.command.get_command(context, above)
        if isinstance(group, click.Group) and name in group.list_commands(context):
            found.append(f"{above} {name}")
    return found


def _nobody_reads() -> None:
    """Send the rest of stdout to /dev/null: the reader has closed the pipe (`| head`), and the
    buffer would fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _as_user(user: str, arguments: Sequence[str] | None) -> str:
    """The same command as another user, as one types it."""
    words = sys.argv[1:] if arguments is None else arguments
    return f"type: sudo -u {user} {shlex.join(['milterctl', *words])}"


def _is_store_error(error: Exception) -> bool:
    """True for a StoreError. Does not import the store: if nobody has, it is no StoreError."""
    store = sys.modules.get("gatepost_policy.store")
    return store is not None and isinstance(error, store.StoreError)


def _fail(text: str, code: int) -> int:
    print(f"milterctl: {shown(text)}", file=sys.stderr)
    return code
