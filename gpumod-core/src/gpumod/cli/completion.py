"""`gpumod completion SHELL`."""

from __future__ import annotations

import json

import click
from click.shell_completion import get_completion_class

from gpumod.cli.context import CliContext
from gpumod.cli.lazy import command


@command("completion", None)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    bash: `gpumod completion bash > ~/.local/share/bash-completion/completions/gpumod`;
    zsh: `gpumod completion zsh > ~/.zfunc/_gpumod` (a folder of fpath);
    fish: `gpumod completion fish > ~/.config/fish/completions/gpumod.fish`.
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"no completion for {shell}")
    script = made(ctx.find_root().command, {}, "gpumod", "_GPUMOD_COMPLETE").source()
    context = ctx.find_object(CliContext)
    as_json = context is not None and context.json
    click.echo(json.dumps({"shell": shell, "script": script}, indent=2) if as_json else script)
