"""`milterctl setup`: set gatepost up in the mail server of this host."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gatepost_milter.cli.check_mta import FILE, FOLDER
from gatepost_milter.cli.common import FINDINGS, UNREACHABLE, USAGE, App, Failure, note
from gatepost_policy.text.escape import shown

if TYPE_CHECKING:
    from gatepost_milter.doctor.postfix_config import PostfixConfig
    from gatepost_milter.setup.postfix_plan import Plan
    from gatepost_policy.config.settings import Settings


@click.group()
def command() -> None:
    """Put gatepost into a mail server: what to change, or do it.

    Whatever stands there is kept. Without --apply nothing is changed: what is printed can be
    pasted into a shell.
    """


# Debian's own entry, without the options that Debian leaves to the admin. Also in docs/postfix.md.
SUBMISSION_ENTRY = (
    "postconf -M submission/inet='submission inet n - y - - smtpd "
    "-o syslog_name=postfix/submission -o smtpd_tls_security_level=encrypt "
    "-o smtpd_sasl_auth_enable=yes "
    "-o smtpd_relay_restrictions=permit_sasl_authenticated,reject'"
)


@command.command("postfix", short_help="Put gatepost into a Postfix.")
@click.option("-c", "--config-directory", type=FOLDER, metavar="DIR",
              help="Postfix's configuration, else its own default.")  # fmt: skip
@click.option("--command-directory", type=FOLDER, metavar="DIR",
              help="Where postconf, postmap and postfix are.")  # fmt: skip
@click.option("--apply", "run", is_flag=True,
              help="Run the commands, check, reload; where one fails, undo them all.")  # fmt: skip
@click.option("--undo", is_flag=True,
              help="Put main.cf and master.cf back as they were before the last --apply.",
              )  # fmt: skip
@click.pass_obj
def postfix(
    app: App, config_directory: Path | None, command_directory: Path | None, run: bool, undo: bool
) -> None:
    """Print the commands that put gatepost into a live Postfix.

    No restriction, no milter and no service that stands there goes. What setup leaves to you
    (networks, tables, logins on port 25) is printed as comments.
    """
    from gatepost_milter.doctor import postfix_config
    from gatepost_milter.setup import postfix_plan

    if run and undo:
        raise click.UsageError("Either --apply or --undo.")
    settings = app.settings
    try:
        live = postfix_config.read(config_directory, command_directory)
        if undo:
            _undo(live)
            return
        made = postfix_plan.plan(live, settings)
    except postfix_config.Unreadable as error:
        raise Failure(str(error), USAGE) from None
    if not made.edits:
        print(f"# Postfix in {shown(str(live.directory))} has gatepost in it: nothing to change")
    for line in made.commands(live):
        print(shown(line))
    if made.edits and run:
        _apply(app, live, made)
    elif made.edits:
        print("postfix reload" if config_directory is None
              else f"postfix -c {shown(str(config_directory))} reload")  # fmt: skip
    _left(made)
    _own_domains(live, settings)
    if not live.submissions(settings.submission.daemon_names):
        _no_submission()


@command.command("exim", short_help="What an Exim needs for gatepost.")
@click.option("--exim-config", type=FILE, metavar="FILE",
              help="Exim's configuration, else its own default.")  # fmt: skip
@click.option("--exim", "program", type=FILE, metavar="FILE", help="The exim program.")
@click.pass_obj
def exim(app: App, exim_config: Path | None, program: Path | None) -> None:
    """Print the lines that put gatepost into a live Exim, each with where it goes.

    Exim's configuration is a program of its owner's: nothing is changed here. What stands there
    already is not printed again.
    """
    from gatepost_milter.doctor import exim as exim_checks
    from gatepost_milter.doctor import exim_config as reader
    from gatepost_milter.doctor.postfix_config import Unreadable

    try:
        live = reader.read(exim_config, program)
    except Unreadable as error:
        raise Failure(str(error), USAGE) from None
    findings = exim_checks.check(live, app.settings)
    if not findings:
        print("# Exim has gatepost in it: nothing to change")
    elif "gatepost_rcpt" not in live.acls:
        print("install -Dm644 -t /etc/exim4/gatepost conf/exim/*.conf")
        print("# main section: .include /etc/exim4/gatepost/gatepost-main.conf")
        print("# after begin acl: .include /etc/exim4/gatepost/gatepost-acl.conf")
    for finding in findings:
        print(f"# {shown(finding.where)}: {shown(finding.problem)} [{finding.code}]")
        print(f"#     {shown(finding.change)}")


def _apply(app: App, live: "PostfixConfig", made: "Plan") -> None:
    from gatepost_milter.setup import postfix_apply

    try:
        done = postfix_apply.apply(live, app.settings, made, note)
    except postfix_apply.Failed as error:
        raise Failure(str(error), UNREACHABLE if error.unreachable else FINDINGS) from None
    print("# done" + (", and Postfix reloaded" if done.running
                      else "; Postfix does not run, so it was not reloaded"))  # fmt: skip


def _undo(live: "PostfixConfig") -> None:
    from gatepost_milter.setup import copies, postfix_apply

    try:
        reloaded = postfix_apply.undo(live)
    except copies.Edited as error:
        for line in str(error).splitlines():
            print(shown(line))
        raise Failure("somebody has edited the files since: take those changes out first") from None
    except copies.NoCopy as error:
        raise Failure(str(error)) from None
    except postfix_apply.Failed as error:
        raise Failure(str(error)) from None
    print("# main.cf and master.cf are as they were"
          + (", and Postfix reloaded" if reloaded else ""))  # fmt: skip


def _no_submission() -> None:
    """Print how to add a submission listener: Debian's Postfix has none, so nothing would be
    scrubbed."""
    print("#\n# no listener for submissions: scrubbed is only what sendmail(1) hands in")
    print("# here, and what comes from submission.networks.")
    print("# Debian ships the submission entry of master.cf commented out. This makes it; who may")
    print("# log in is for SASL to say (Dovecot's, or Cyrus'). Then run `setup postfix` again:")
    print(f"# {SUBMISSION_ENTRY}")


def _own_domains(live: "PostfixConfig", settings: "Settings") -> None:
    """Print the domains of this Postfix for sender.own_domains, where that key is not set."""
    from gatepost_policy.system import mta_tables

    if settings.sender.own_domains:
        return
    found = mta_tables.domains(live.get(name) for name in mta_tables.DOMAINS)
    if found.domains:
        print(
            "#\n# mail without a login from submission.networks is ours under every sender, since"
        )
        print("# no own domains are named. Those that this Postfix takes mail for:")
        listed = ", ".join(f'"{name}"' for name in sorted(found.domains))
        print(f"#     gatepost.toml: [sender] own_domains = [{shown(listed)}]")
    for table in found.unread:
        print(f"# not read, and may name more of them: {shown(table)}")


def _left(made: "Plan") -> None:
    """Print what the operator must decide, as comments, so that the output can be pasted."""
    if made.left:
        print("#\n# for you to decide:")
    for finding in made.left:
        print(f"# {shown(finding.where)}: {shown(finding.problem)} [{finding.code}]")
        print(f"#     {shown(finding.change)}")
    for network, why in made.aside:
        print(f"# {network} of mynetworks is not proposed for submission.networks: {why}")
