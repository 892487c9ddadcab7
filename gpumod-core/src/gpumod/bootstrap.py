"""The only place that knows which adapter goes where: settings + plugins -> Gpumod."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import platformdirs

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.files import HOME_ID_FILE, ensure_home, home_id
from gpumod.adapters.http import LoopbackHttp
from gpumod.adapters.local import LocalComputer
from gpumod.adapters.secrets import SecretFiles
from gpumod.adapters.service_user import named_user
from gpumod.adapters.settings import check_setting, doubt_about, load_settings, variables_set
from gpumod.adapters.store import open_store
from gpumod.domain.base import has_control_characters
from gpumod.domain.errors import GpumodError, MachineLacks, UsageError
from gpumod.domain.settings import Settings
from gpumod.engine.machine import Machine
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.ports import InstallsWatch, PresetTools, TemplateShelf, Tools
from gpumod.plugins.entries import list_commands
from gpumod.plugins.loader import load_plugins
from gpumod.plugins.registry import Plugins
from gpumod.ports.checkup import Checkup
from gpumod.ports.foreign import Surroundings

DATABASE = "gpumod.db"


def default_home(environ: Mapping[str, str]) -> Path:
    """`GPUMOD_HOME`, else the platform's folder for user data."""
    named = environ.get("GPUMOD_HOME")
    return Path(named).expanduser() if named else platformdirs.user_data_path("gpumod")


def preset_tools() -> PresetTools:
    """What reads and writes presets. YAML is imported only by commands that need it."""
    from gpumod.adapters import presets

    return PresetTools(
        load=presets.load_presets,
        dump_service=presets.dump_service_preset,
        dump_mode=presets.dump_mode_preset,
        merge=presets.merge_for_reload,
        dump_box=presets.dump_box,
        read_box=presets.read_box,
        bad_box=presets.bad_box,
        expand=presets.expand_given,
    )


def template_shelf(home: Path, plugins: Plugins) -> TemplateShelf:
    """The templates of a home. Jinja2 is imported only by commands that need it."""
    from gpumod.adapters import template_shelf as shelf

    return shelf.TemplateShelf(home, [(offer.name, offer.folder) for offer in plugins.templates])


def watch_unit(
    home: Path, owner_id: str, settings: Settings, plugins: Plugins, scope: Literal["user", "system"] | None
) -> tuple[Literal["user", "system"], InstallsWatch]:
    """The unit of `gpumod watch`. Imported only by the command that needs it."""
    from gpumod.adapters.systemd import watch_unit as unit

    chosen = scope or unit.default_scope(settings)
    folders = [offer.folder for offer in plugins.templates]
    return chosen, unit.WatchUnit(home, owner_id, settings, folders, scope=chosen)


def surroundings(home: Path) -> Surroundings:
    """What is around `home` on this machine."""
    from gpumod.adapters.foreign.looking import ThisMachine  # for discovery alone

    return ThisMachine(home)


def checkup() -> Checkup:
    """What `gpumod doctor` asks of this machine."""
    from gpumod.adapters.checkup import ThisComputer  # for that alone

    return ThisComputer()


def new_distribution(name: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Write a new distribution of a third party."""
    from gpumod.adapters.scaffold import write_distribution  # for that alone

    return write_distribution(name, folder)


async def run_suite(request: Mapping[str, Any]) -> list[dict[str, str]]:
    """Run a conformance suite."""
    from gpumod.adapters import suites  # for that alone

    return await suites.run_suite(request)


def _is_missing(folder: Path) -> bool:
    """True where surely nothing is there; what cannot be looked at is told by who opens it."""
    try:
        os.stat(folder)  # noqa: PTH116 - Path.exists hides why
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def open_gpumod(
    home: Path | None = None, environ: Mapping[str, str] | None = None, *, make_named: bool = True
) -> Gpumod:
    """Open a home, making it (0700) when it is not there. A home that cannot be written, or whose disk is full, reads.

    The mode of a folder that is there is left alone; one that is shared, or somebody else's, becomes no home. Without
    `make_named` one that `home` or GPUMOD_HOME names must be there: a slip of the pen makes none.

    Raises Failed (`not-a-database`, `database-too-new`), UsageError (`bad-home`, `no-such-home`) and MachineLacks
    (`no-home`).
    """
    environ = os.environ if environ is None else environ
    folder = (home or default_home(environ)).expanduser().absolute()
    if has_control_characters(str(folder)):
        raise UsageError(
            "bad-home",
            f"{str(folder)!r} cannot be a home",
            why="its path holds control characters (a newline, a tab, an escape or the like)",
            hint="name another one with --home or GPUMOD_HOME",
        )
    if not make_named and (home or environ.get("GPUMOD_HOME")) and _is_missing(folder):
        raise UsageError(
            "no-such-home",
            f"there is no gpumod home at {folder}",
            why=f"{'--home' if home else 'GPUMOD_HOME'} names a folder that is not there",
            hint=f"`gpumod --home {shlex.quote(str(folder))} init` makes one there",
        )
    try:
        ensure_home(folder, known_by=(HOME_ID_FILE, DATABASE))
    except GpumodError as error:
        raise MachineLacks(
            "no-home",
            f"the home {folder} cannot be used",
            why=f"{error.info.message}: {error.info.why}",
            hint="name another one with --home or GPUMOD_HOME",
        ) from error
    writable = os.access(folder, os.W_OK)
    store = open_store(folder / DATABASE, read_only=not writable)
    settings = load_settings(store.settings(), environ)
    plugins = load_plugins(environ)
    machine = Machine(
        home=folder,
        home_id=home_id(folder) if store.writable or (folder / HOME_ID_FILE).exists() else "read-only",
        settings=settings,
        store=store,
        plugins=plugins,
        secrets=SecretFiles(folder),
        http=LoopbackHttp(),
        clock=SystemClock(),
        local=LocalComputer(settings.bind_host),
    )
    return Gpumod(
        machine,
        Tools(
            presets=preset_tools,
            check_setting=check_setting,
            check_user=lambda name: named_user(name, folder),
            doubt_about=doubt_about,
            from_environment=variables_set(environ),
            list_commands=list_commands,
            templates=lambda: template_shelf(folder, plugins),
            watch_unit=lambda scope: watch_unit(folder, machine.home_id, settings, plugins, scope),
            surroundings=lambda: surroundings(folder),
            checkup=checkup,
            new_distribution=new_distribution,
            run_suite=run_suite,
        ),
    )
