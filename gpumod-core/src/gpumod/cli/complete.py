"""Completion of ids, read from the database file itself: quick, read-only, and silent whatever is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def _from_database(query: str, *more: str) -> Completer:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # completion alone

        # Options such as --services take a,b,c: the last name is completed.
        before, comma, last = incomplete.rpartition(",")
        names = [*more, *_ids(_database(ctx), query)]
        return [CompletionItem(before + comma + name) for name in names if name.startswith(last)]

    return complete


def _ids(database: Path, query: str) -> list[str]:
    """Never raises: completion that fails completes nothing."""
    import sqlite3  # completion alone

    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)) as connection:
            return [str(row[0]) for row in connection.execute(query)]
    except (sqlite3.Error, OSError, ValueError):
        return []


def _database(ctx: click.Context) -> Path:
    home = ctx.find_root().params.get("home") or os.environ.get("GPUMOD_HOME")
    if not home:
        from platformdirs import user_data_dir  # completion alone

        home = user_data_dir("gpumod")
    return Path(home).expanduser() / "gpumod.db"


def _settings(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # completion alone

    from gpumod.domain.settings import Settings  # imports pydantic

    return [CompletionItem(key) for key in Settings.model_fields if key.startswith(incomplete)]


SERVICES = _from_database("select id from services order by id")
MODES = _from_database("select id from modes order by id")
MODES_TO_SWITCH_TO = _from_database("select id from modes order by id", "-")
RUNS = _from_database("select id from runs order by started_at desc limit 20", "last")
PRESETS = _from_database("select id from services union select id from modes order by 1")
SETTINGS: Completer = _settings
ALTERNATIVES = _from_database(
    "select distinct json_each.value from simulations, json_each(alternatives)"
    " where json_extract(definition, '$.base.mode') is not null order by seq desc, json_each.key limit 20"
)
