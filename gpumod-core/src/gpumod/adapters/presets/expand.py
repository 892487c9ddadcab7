"""Variables in the paths of presets: from settings, in path fields alone, and never through a shell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gpumod.adapters.presets.schema import PATH_VARS, VOLUMES
from gpumod.adapters.presets.strict_yaml import Loc
from gpumod.domain.errors import UsageError
from gpumod.domain.settings import Settings

_VARIABLE = re.compile(r"\$(?:(?P<escaped>[$~])|(?P<name>\w+)|\{(?P<braced>\w*)\}|(?P<bad>.|$))")


class BadPath(ValueError):
    """A path that cannot be expanded, and the field that holds it."""

    def __init__(self, problem: str, loc: Loc) -> None:
        super().__init__(problem)
        self.loc = loc


def variables(settings: Settings) -> dict[str, str]:
    """What may stand behind a `$` in a path. Without the settings these are the folders that their tools use too."""
    home = Path.home()
    return {
        "HOME": str(home),
        "MODELS_DIR": settings.models_dir or str(home / "models"),
        "HF_HOME": settings.hf_home or str(home / ".cache" / "huggingface"),
    }


def expand_paths(data: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """`data` of a service file with its path fields expanded. Raises BadPath."""
    expanded = dict(data)
    if isinstance(data.get("model_path"), str):
        expanded["model_path"] = _expand(data["model_path"], known, ("model_path",))
    if isinstance(data.get("unit_vars"), Mapping):
        expanded["unit_vars"] = _paths_in(
            data["unit_vars"], lambda path, loc: _expand(path, known, loc), ("unit_vars",)
        )
    return expanded


def expand_given(data: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The same for fields of a service that somebody typed. Raises UsageError `bad-path` that names the field."""
    try:
        return expand_paths(data, variables(settings))
    except BadPath as error:
        field = ".".join(map(str, error.loc))
        hint = "write $$ for a dollar; docs/presets.md lists the variables"
        raise UsageError(
            "bad-path", "a path cannot be expanded", why=f"{field}: {error}", hint=hint, fields=[field]
        ) from error


def escape_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` such that :func:`expand_paths` gives it back."""
    escaped = dict(data)
    if isinstance(data.get("model_path"), str):
        escaped["model_path"] = _escape(data["model_path"])
    if isinstance(data.get("unit_vars"), Mapping):
        escaped["unit_vars"] = _paths_in(data["unit_vars"], lambda path, _: _escape(path), ("unit_vars",))
    return escaped


def _paths_in(options: Mapping[str, Any], change: Callable[[str, Loc], str], loc: Loc) -> dict[str, Any]:
    """`options` with `change` applied to what is a path in them: path options, and the volumes of a container."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        here = (*loc, key)
        if isinstance(value, str) and key in (*PATH_VARS, VOLUMES):
            value = change(value, here)  # noqa: PLW2901 - the same value, changed
        elif isinstance(value, list | tuple) and key == VOLUMES:
            value = [change(item, here) if isinstance(item, str) else item for item in value]  # noqa: PLW2901 - as above
        elif isinstance(value, Mapping) and key == "container":
            value = _paths_in(value, change, here)  # noqa: PLW2901 - as above
        found[key] = value
    return found


def _escape(path: str) -> str:
    path = path.replace("$", "$$")
    return "$" + path if path.startswith("~") else path


def _expand(path: str, known: Mapping[str, str], loc: Loc) -> str:
    def value_of(match: re.Match[str]) -> str:
        if match["escaped"]:
            return match["escaped"]
        name = match["name"] or match["braced"]
        if name in known:
            return known[name]
        close = get_close_matches(name or "", list(known), n=1)
        advice = f"did you mean ${close[0]}?" if close else f"known are {', '.join('$' + k for k in sorted(known))}"
        raise BadPath(f"uses {match[0]!r}, which is no variable ({advice}; $$ is a dollar)", loc)

    if path == "~" or path.startswith("~/"):
        return known["HOME"] + _VARIABLE.sub(value_of, path[1:])
    return _VARIABLE.sub(value_of, path)
