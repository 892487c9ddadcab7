"""Settings from the database and the environment, checked, with errors that say where a wrong one came from."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from gpumod.domain.errors import UnknownName, UsageError
from gpumod.domain.settings import Settings
from gpumod.domain.words import said

PREFIX = "GPUMOD_"
FOLDERS = frozenset({"sim_machine", "bin_path", "models_dir", "hf_home", "lock_dir"})
PROGRAMS = frozenset({"vllm_bin", "llama_server_bin"})
_TYPES = {int: "whole number", float: "number"}


def environment_name(key: str) -> str:
    """The environment variable that overrides a setting."""
    return PREFIX + key.upper()


def variables_set(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that the environment decides, each with its variable."""
    names = {key: environment_name(key) for key in Settings.model_fields}
    return {key: name for key, name in names.items() if environ.get(name, "").strip()}


def load_settings(store_settings: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """The settings: from `environ` (GPUMOD_<NAME>; an empty one is not set), else as stored, else the default.

    Keys that this version does not know are passed over. Raises UsageError(`bad-setting`).
    """
    values: dict[str, str | None] = {}
    decided = variables_set(environ)
    for key in Settings.model_fields:
        if key in decided:
            variable = decided[key]
            values[key] = _checked(key, environ[variable], f"in the environment variable {variable}", variable)
        elif key in store_settings:
            values[key] = _checked(key, store_settings[key], "in the database")
    return Settings.model_validate(values)


def check_setting(key: str, value: str) -> str:
    """The text to store for a setting: paths with `~` expanded and absolute. An empty text unsets an optional one.

    Raises UnknownName(`unknown-setting`) and UsageError(`bad-setting`).
    """
    if key not in Settings.model_fields:
        close = get_close_matches(key, list(Settings.model_fields), n=3)
        raise UnknownName(
            "unknown-setting",
            f"there is no setting {key!r}",
            hint=f"did you mean {', '.join(close)}?" if close else "`gpumod settings list` shows them all",
            close=close,
        )
    return _checked(key, value, "given") or ""


def doubt_about(key: str, value: str) -> str:
    """What may be wrong with a value that can be stored; "" where nothing is. Folders may come later."""
    return f"there is no folder {value} (yet)" if key in FOLDERS and value and not Path(value).is_dir() else ""


def _checked(key: str, text: str, where: str, variable: str = "") -> str | None:
    """The text of a setting, as it stood `where` (in the environment `variable`, where it is from there)."""
    value = _expanded(key, text.strip())
    if not value:
        if _optional(key):
            return None
        raise _bad(key, text, where, "it must not be empty", variable)
    try:
        Settings.model_validate({key: value})
    except ValidationError as error:
        raise _bad(key, text, where, _said(error), variable) from error
    return value


def _said(error: ValidationError) -> str:
    return said(error.errors(include_url=False)[0])


def _bad(key: str, text: str, where: str, why: str, variable: str) -> UsageError:
    mend = f"`gpumod settings set {key} VALUE`; {environment_name(key)}=VALUE overrides it for one command"
    if variable:  # it would keep that command from running, too
        mend = f"{variable}=VALUE, or unset {variable}"
    return UsageError(
        "bad-setting",
        f"the setting {key} cannot be {text!r} ({where})",
        why=why,
        hint=f"a {_type_of(key)}, for instance {_default(key)!r}: {mend}",
        key=key,
    )


def _expanded(key: str, text: str) -> str:
    if key in FOLDERS and text:
        return str(_home(text).absolute())
    return str(_home(text)) if key in PROGRAMS and text.startswith("~/") else text


def _home(text: str) -> Path:
    return Path.home() / text[2:] if text.startswith("~/") or text == "~" else Path(text)


def _optional(key: str) -> bool:
    return Settings.model_fields[key].default is None


def _default(key: str) -> object:
    default = Settings.model_fields[key].default
    return default if default is not None else "~/models" if key in FOLDERS else ""


def _type_of(key: str) -> str:
    if key in FOLDERS:
        return "folder"
    return _TYPES.get(type(Settings.model_fields[key].default), "text")
