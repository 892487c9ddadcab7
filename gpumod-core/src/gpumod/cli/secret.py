"""`gpumod service secret ...`."""

from __future__ import annotations

import sys

import click

from gpumod.cli.complete import SERVICES
from gpumod.cli.context import CliContext
from gpumod.cli.inputs import read_text
from gpumod.cli.lazy import subcommand


@click.group("secret")
def secret() -> None:
    """Tokens and passwords of a service, kept apart from its definition."""


@subcommand(secret, "list", "secret_list")
@click.argument("service", shell_complete=SERVICES)
@click.pass_obj
def list_secrets(context: CliContext, service: str) -> None:
    """Names of the secrets of SERVICE. Their values are never shown."""
    context.call("secret_list", {"service": service})


@subcommand(secret, "set", "secret_set")
@click.argument("service", shell_complete=SERVICES)
@click.argument("name")
@click.pass_obj
def set_secret(context: CliContext, service: str, name: str) -> None:
    """Give SERVICE the variable NAME. Its value is asked for, or read from stdin; never given as an argument.

    It is stored in the home, in a file that only you can read, and reaches the service at its next start.
    """
    if sys.stdin.isatty():
        value = click.prompt(f"{name} of {service}", hide_input=True, err=True)
    else:
        value = read_text("-")[0].removesuffix("\n").removesuffix("\r")
    context.call("secret_set", {"service": service, "name": name, "value": value})


@subcommand(secret, "remove", "secret_remove")
@click.argument("service", shell_complete=SERVICES)
@click.argument("name")
@click.pass_obj
def remove(context: CliContext, service: str, name: str) -> None:
    """Forget the secret NAME of SERVICE."""
    context.call("secret_remove", {"service": service, "name": name})
