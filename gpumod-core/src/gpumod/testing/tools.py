"""What operations need beside the engine, for tests that use none of it."""

from __future__ import annotations

from typing import Any

from gpumod.operations.ports import Tools


def _not_here(*_: Any) -> Any:
    raise AssertionError("this tool is not asked for here")


def bare_tools(**given: Any) -> Tools:
    """Tools of which only those in `given` may be used; settings are taken as they are."""
    tools: dict[str, Any] = {
        "presets": _not_here,
        "check_setting": lambda _key, value: value,
        "from_environment": {},
        "list_commands": dict,
        "templates": _not_here,
        "watch_unit": _not_here,
        "surroundings": _not_here,
        "checkup": _not_here,
    }
    return Tools(**(tools | given))
