"""Click groups and commands that cost nothing until they are used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from gpumod.cli.table import Entry

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class OperationCommand(click.Command):
    """A command that calls one operation (`operation` is its name; None: it calls none). It has `--json`."""

    def __init__(self, *args: Any, operation: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.operation = operation
        self.params.append(json_option())


def json_option() -> click.Option:
    """`--json`: one JSON document on stdout, and nothing else there."""
    return click.Option(
        ["--json"], is_flag=True, expose_value=False, callback=_set_json, help="Print one JSON document on stdout."
    )


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and ctx.obj is not None:
        ctx.obj.json = True


def command(name: str, operation: str | None) -> Callable[[Callable[..., Any]], OperationCommand]:
    """Declare a command that calls `operation`. Its docstring is its help."""

    def make(function: Callable[..., Any]) -> OperationCommand:
        return click.command(name, cls=OperationCommand, operation=operation)(function)

    return make


def subcommand(
    group: click.Group, name: str, operation: str | None
) -> Callable[[Callable[..., Any]], OperationCommand]:
    """Declare a command inside `group`."""

    def make(function: Callable[..., Any]) -> OperationCommand:
        made = command(name, operation)(function)
        group.add_command(made)
        return made

    return make


class LazyGroup(click.Group):
    """A group whose commands are listed from a table, and imported when they run.

    `extras` gives the names and lines of help of other distributions' commands, `load_extra` one of them.
    """

    def __init__(
        self,
        *args: Any,
        table: Mapping[str, Entry],
        extras: Callable[[], Mapping[str, str]],
        load_extra: Callable[[str], click.Command | None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.table = table
        self._extras = extras
        self._load_extra = load_extra

    def short_helps(self) -> dict[str, str]:
        """Every command's name and line of help; the own ones win."""
        own = {name: entry.help for name, entry in self.table.items()}
        return own | {name: text for name, text in self._extras().items() if name not in own}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.short_helps())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.table.get(cmd_name)
        if entry is None:
            return self._extra(ctx, cmd_name) if cmd_name in self._extras() else None
        module, _, attribute = entry.target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{entry.target} is not a command")
        return found

    def _extra(self, ctx: click.Context, name: str) -> click.Command | None:
        try:
            return self._load_extra(name)
        except Exception:
            # Completion completes what it can, and is silent about the rest.
            if ctx.resilient_parsing:
                return None
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and name not in self.short_helps():
            raise click.exceptions.NoSuchCommand(name, possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.short_helps().items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # costs start-up time, completion alone

        names = [CompletionItem(n, help=h) for n, h in self.short_helps().items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)
