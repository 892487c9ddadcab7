"""What operations need beside the engine, for tests that use none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpumod.operations.ports import Tools


def _not_here(*_: Any) -> Any:
    raise AssertionError("this tool is not asked for here")


def bare_tools(**given: Any) -> Tools:
    """Tools of which only those in `given` may be used; settings are taken as they are."""
    tools: dict[str, Any] = {
        "presets": _not_here,
        "check_setting": lambda _key, value: value,
        "check_user": lambda _name: None,
        "doubt_about": lambda _key, _value: "",
        "from_environment": {},
        "list_commands": dict,
        "templates": _not_here,
        "watch_unit": _not_here,
        "surroundings": _not_here,
        "checkup": _not_here,
        "new_distribution": _not_here,
        "run_suite": _not_here,
    }
    return Tools(**(tools | given))


class WatchFile:
    """Stands where the unit of `gpumod watch` is, of the manager `whose`: a file, and nothing that runs."""

    name = "gpumod.service"

    def __init__(self, folder: Path, whose: str) -> None:
        self.path, self._whose = folder / f"{whose}-watch.service", whose

    async def install(self) -> bool:
        was = self.there()
        self.path.touch()
        return was is None

    async def uninstall(self) -> bool:
        was = self.there()
        self.path.unlink(missing_ok=True)
        return was is not None

    def there(self) -> Path | None:
        return self.path if self.path.is_file() else None

    def command(self, option: str) -> str:
        return f"gpumod watch {option} --manager {self._whose}"

    def advice(self) -> tuple[str, ...]:
        return ("linger",)
