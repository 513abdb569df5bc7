"""`milterctl completion SHELL`: print the completion script for a shell."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script for completion in your shell.

    Make the directory first, where it is not there (mkdir -p). zsh wants fpath+=~/.zfunc before
    compinit in ~/.zshrc.

    \b
    bash:  milterctl completion bash > ~/.local/share/bash-completion/completions/milterctl
    zsh:   milterctl completion zsh > ~/.zfunc/_milterctl
    fish:  milterctl completion fish > ~/.config/fish/completions/milterctl.fish
    """
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """The script for `shell` (bash, zsh, fish), which asks milterctl itself at each key."""
    from gatepost_milter.cli.milterctl import cli

    kind = get_completion_class(shell)
    assert kind is not None
    text = kind(cli, {}, "milterctl", "_MILTERCTL_COMPLETE").source()
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"
