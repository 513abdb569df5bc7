"""`milterctl completion SHELL`: print the completion script for a shell."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script for completion in your shell.

    \b
    bash:  milterctl completion bash > ~/.local/share/bash-completion/completions/milterctl
    zsh:   milterctl completion zsh > ~/.zfunc/_milterctl
    fish:  milterctl completion fish > ~/.config/fish/completions/milterctl.fish
    """
    from gatepost_milter.cli.milterctl import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "milterctl", "_MILTERCTL_COMPLETE").source())
