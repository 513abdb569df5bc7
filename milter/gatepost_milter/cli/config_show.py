"""`milterctl config show`: the configuration in force."""

import json
import re
import sys
from typing import Any

import click

from gatepost_milter.cli.common import App
from gatepost_milter.cli.options import FORMAT

# Values that are secret: only whether they are set is shown.
SECRET = {("submission", "mta_token"), ("notify", "webhook")}
PASSWORD = re.compile(r"(://[^:@/]*:)[^@/]*(@)")
IN_QUERY = re.compile(r"((?:password|passfile|sslpassword)=)[^&]*", re.I)


@click.group("config", short_help="The configuration in force.")
def command() -> None:
    """The configuration in force."""


@command.command("show", short_help="Print every key with its value.")
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@FORMAT
@click.pass_obj
def show(app: App, changed: bool, form: str) -> None:
    """Print every key with the value in force, as gatepost.toml would have it.

    Passwords in URLs and tokens are not shown. What each key means: gatepost.toml(5).
    """
    from gatepost_policy.config.values import write_table
    from gatepost_policy.text.escape import shown

    tree: dict[str, Any] = write_table(app.settings, changed=changed)
    _shipped(tree.get("sender", {}), changed)
    tree = {table: _hidden(table, values) for table, values in tree.items() if values}
    if form == "json":
        json.dump(tree, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    where = "built-in defaults" if app.config_path is None else shown(str(app.config_path))
    also = "; --store goes before [store] url" if app.store_option is not None else ""
    print(f"# from {where}{also}")
    if changed and not tree:
        print("# every key has its default")
    for table, values in tree.items():
        _table(table, values)


def _shipped(sender: dict[str, Any], changed: bool) -> None:
    """Replace the names of the packaged never_list by the one word that means it in the file."""
    from gatepost_policy.config.settings import PACKAGED, packaged_never_list

    names, shipped = sender.get("never_list", []), set(packaged_never_list())
    if shipped <= set(names):
        sender["never_list"] = [PACKAGED, *(name for name in names if name not in shipped)]
    if changed and sender.get("never_list") == [PACKAGED]:
        del sender["never_list"]


def _hidden(table: str, values: dict[str, Any]) -> dict[str, Any]:
    """`values` without passwords, tokens and other secrets."""

    def one(key: str, value: Any) -> Any:
        if (table, key) in SECRET and value:
            return "(set)"
        if isinstance(value, str) and "://" in value:
            return IN_QUERY.sub(r"\1***", PASSWORD.sub(r"\1***\2", value))
        return value

    return {key: one(key, value) for key, value in values.items()}


def _table(name: str, values: dict[str, Any]) -> None:
    """Print one table: its keys, then the tables in it (`[rules.REASON]`)."""
    below = {key: value for key, value in values.items() if isinstance(value, dict)}
    if len(below) < len(values):
        print(f"\n[{name}]")
    for key, value in values.items():
        if key not in below:
            # A JSON string, number, boolean or list of these is TOML as well.
            print(f"{key} = {json.dumps(value)}")
    for key, value in below.items():
        _table(f"{name}.{key}", value)
