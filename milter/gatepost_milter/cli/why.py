"""`milterctl why`: all about one message, and what the rules would decide about it now."""

import json
import sys
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import click

from gatepost_milter.cli.common import App
from gatepost_milter.cli.options import FORMAT

if TYPE_CHECKING:
    from gatepost_policy.mail.facts import Facts


@click.command(short_help="Why a message was decided so, and what would be said now.")
@click.argument("message", required=False, metavar="[QUEUEID]")
@click.option("--client", metavar="IP", help="Without a message: what this client would hear.")
@click.option("--helo", metavar="NAME", help="With --client: its HELO name.")
@click.option("--sender", metavar="ADDRESS", help="With --client: MAIL FROM; else <>.")
@click.option("--recipient", "recipients", multiple=True, metavar="ADDRESS",
              help="With --client: RCPT TO; may be repeated.")  # fmt: skip
@FORMAT
@click.pass_obj
def command(
    app: App,
    /,
    message: str | None,
    client: str | None,
    helo: str | None,
    sender: str | None,
    recipients: tuple[str, ...],
    form: str,
) -> None:
    """Why a message was decided so, and what would be said to it now.

    QUEUEID is the MTA's queue id, or a Message-ID. Told are its envelope and trail, each signature
    with its reason, what was known of the sender at that moment, and each rule in order with what
    it said, the shadow included. What is not stored is said as not known.

    \b
    milterctl why 4fT1Yk2xQ8z1
    milterctl why --client 192.0.2.7 --sender a@b.example --recipient c@d.example
    """
    if (message is None) == (client is None):
        raise click.UsageError("Say a QUEUEID, or --client with --sender and --recipient.")
    if message is None:
        _bare(app, client or "", helo, sender or "", recipients, form)
    elif helo or sender or recipients:
        raise click.UsageError("--helo, --sender and --recipient go with --client.")
    else:
        _stored(app, message, form)


def _stored(app: App, message: str, form: str) -> None:
    from gatepost_policy import config
    from gatepost_policy.config import own_names
    from gatepost_policy.report import why
    from gatepost_policy.text.escape import shown

    own = own_names.read(config.state_dir(app.settings))
    with app.store(caught_up=True, replica=True) as connection:
        ids = why.find(connection, message)
        found = why.tell(connection, ids, app.settings, time.time(), own) if ids else None
    if form == "json":
        _dump(None if found is None else found.json())
    elif found is None:
        click.echo(
            f"{shown(message)}: nothing is known of it (looked for as a queue id or a Message-ID)"
        )
    else:
        from gatepost_policy.render import why as render

        click.echo(render.text(found), nl=False)


def _bare(
    app: App, client: str, helo: str | None, sender: str, recipients: tuple[str, ...], form: str
) -> None:
    """Print what the rules would decide now at RCPT for this client, without a message."""
    from gatepost_policy import config
    from gatepost_policy.config import own_names
    from gatepost_policy.report import why

    facts = _facts(client, helo, sender, recipients, time.time())
    own = own_names.read(config.state_dir(app.settings))
    with app.store(caught_up=True, replica=True) as connection:
        found = why.now_of(connection, facts, app.settings, facts.at, own)
    if form == "json":
        _dump(found.json())
        return
    from gatepost_policy.render import why as render
    from gatepost_policy.text.escape import shown

    to = ", ".join(recipients) or "nobody"
    click.echo(shown(f"If {client} sent from <{sender}> to {to} now, up to RCPT TO"))
    click.echo("\n".join(render.explained(found)))
    click.echo("  A signature and SPF are not known before the message is: they may change this.")


def _facts(
    client: str, helo: str | None, sender: str, recipients: tuple[str, ...], at: float
) -> "Facts":
    from gatepost_policy.mail.address import parse
    from gatepost_policy.mail.client_address import unmapped
    from gatepost_policy.mail.facts import Client, Facts, Family, Recipient, Source, Stage
    from gatepost_policy.mail.index_key import clean

    try:
        ip = unmapped(ip_address(client.strip().strip("[]")))
    except ValueError:
        raise click.UsageError(f"--client: want an IP address, got {client!r}.") from None
    return Facts(
        at=at,
        source=Source.POLICY,
        stage=Stage.RCPT,
        client=Client(Family.IPV4 if ip.version == 4 else Family.IPV6, ip, helo=helo),
        sender=parse(clean(sender)),
        recipients=tuple(Recipient(parse(clean(text))) for text in recipients),
    )


def _dump(value: object) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
