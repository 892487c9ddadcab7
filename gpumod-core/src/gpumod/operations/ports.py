"""What operations need beside the engine: presets and settings, as the bootstrap puts them together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from gpumod.domain.box import Box, ReadBox
from gpumod.domain.errors import ErrorInfo, UsageError
from gpumod.domain.mode import Mode
from gpumod.domain.presets import PresetCatalogue
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports.checkup import Checkup
from gpumod.ports.foreign import Surroundings


@dataclass(frozen=True)
class PresetTools:
    """Reading and writing presets. `load` takes (distribution, folder or file) pairs, `read_box` a text and where it
    is from (it raises UsageError where nothing can be read); `bad_box` makes one error of all problems of a box.
    `expand` puts values in the place of variables in the paths among a service's fields (it raises UsageError)."""

    load: Callable[[Sequence[tuple[str, Path]], Settings], PresetCatalogue]
    dump_service: Callable[[Service], str]
    dump_mode: Callable[[Mode], str]
    merge: Callable[[Service | None, Service, frozenset[str], bool], tuple[Service, tuple[str, ...]]]
    dump_box: Callable[[Box], str]
    read_box: Callable[[str, str, Settings], ReadBox]
    bad_box: Callable[[str, list[ErrorInfo]], UsageError]
    expand: Callable[[Mapping[str, Any], Settings], dict[str, Any]]


class TemplateShelf(Protocol):
    """Templates as files. `places` are (whose, path), the one that wins first; it raises UnknownName.

    `write` raises Failed (`bad-template`); `write` and `remove` (of the user's own) tell whether anything changed.
    """

    user_folder: Path

    def names(self) -> tuple[str, ...]: ...
    def places(self, name: str) -> Sequence[tuple[str, Path]]: ...
    def text(self, name: str) -> str: ...
    def write(self, name: str, text: str) -> bool: ...
    def remove(self, name: str) -> bool: ...


class InstallsWatch(Protocol):
    """What keeps `gpumod watch` running, as of one systemd manager. `install` and `uninstall` tell whether anything
    changed; they raise MachineLacks and Failed. `there` is where its unit lies (None: nowhere), `command` what a person
    types for `--install` or `--uninstall`. `advice` is what would keep it from doing its work."""

    name: str
    path: Path

    async def install(self) -> bool: ...
    async def uninstall(self) -> bool: ...
    def there(self) -> Path | None: ...
    def command(self, option: str) -> str: ...
    def advice(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Tools:
    """Functions of adapters, named by the bootstrap alone.

    `check_setting` gives the text to store, `doubt_about` what may be wrong with it nevertheless; `check_user` raises
    UsageError for a user as whom services of this home cannot run. `from_environment` maps the settings that the
    environment decides to their variables, `list_commands` the commands of other distributions to their owners.
    `watch_unit` takes a manager (None: the one that is usual here). `new_distribution` writes one of a name into a
    folder (it raises UsageError and Failed), `run_suite` tells what became of each test of a suite (it raises
    MachineLacks and Failed).
    """

    presets: Callable[[], PresetTools]
    check_setting: Callable[[str, str], str]
    check_user: Callable[[str], object]
    doubt_about: Callable[[str, str], str]
    from_environment: Mapping[str, str]
    list_commands: Callable[[], Mapping[str, Sequence[str]]]
    templates: Callable[[], TemplateShelf]
    watch_unit: Callable[[Literal["user", "system"] | None], tuple[Literal["user", "system"], InstallsWatch]]
    surroundings: Callable[[], Surroundings]
    checkup: Callable[[], Checkup]
    new_distribution: Callable[[str, Path], tuple[Path, tuple[str, ...]]]
    run_suite: Callable[[Mapping[str, Any]], Awaitable[list[dict[str, str]]]]
