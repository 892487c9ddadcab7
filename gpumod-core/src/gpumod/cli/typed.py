"""Errors about fields, said with what was typed: `--vram-mb`, where the operation knows `vram_mb`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pydantic import ValidationError

    from gpumod.domain.errors import ErrorInfo, UsageError

_OTHERWISE = {
    "context": "--context",
    "members": "--services",
    "want": "--sleep-on-idle, --asleep or --awake",
    "unit_vars": "--set",
}
"""Parameters of operations that the command line gives by options of other names."""


def options_of(command: click.Command) -> dict[str, str]:
    """What is typed for each parameter of `command`: its long option, or the argument as the usage shows it."""
    typed = dict(_OTHERWISE)
    for param in command.params:
        if param.name is not None:
            argument = isinstance(param, click.Argument)
            typed[param.name] = param.human_readable_name if argument else max(param.opts, key=len)
            if argument or param.name == "service_id":
                typed.setdefault("id", typed[param.name])
                typed.setdefault("ids", typed[param.name])
    return typed


def bad_params(error: ValidationError, typed: Mapping[str, str], command: str) -> UsageError:
    """A UsageError `bad-input` of `command` that names each option and what it may be."""
    from gpumod.domain.errors import UsageError  # `--help` does without pydantic
    from gpumod.domain.words import findings

    found = findings(error.errors(include_url=False))
    texts = [f"{_option(field, typed)}: {what}" for field, what in found]
    hint = f"`{command} --help` says what each option takes"
    return UsageError("bad-input", "the input is not valid", why="\n".join(texts), hint=hint, problems=texts)


def as_typed(error: UsageError, typed: Mapping[str, str]) -> UsageError:
    """`error` of an operation with fields said as options; those that are plain words too only where one is blamed."""
    from gpumod.domain.errors import UsageError  # `--help` does without pydantic

    info: ErrorInfo = error.info
    if info.code == "bad-box":  # its fields are those of a document
        return error
    why = info.why
    for field in info.details.get("fields", ()):
        why = re.sub(rf"(^|; ){re.escape(field)}: ", rf"\1{_option(field, typed)}: ", why)
    names = [name for name in typed if "_" in name and typed[name].startswith("--")]
    words = re.compile(rf"(?<![\w-])({'|'.join(names)})(?![\w=])") if names else None

    def said(text: str) -> str:
        return words.sub(lambda match: typed[match[1]], text) if words else text

    return UsageError(info.code, said(info.message), why=said(why), hint=said(info.hint), **info.details)


def _option(field: str, typed: Mapping[str, str]) -> str:
    name, _, rest = field.partition(".")
    option = typed.get(name, name) or "input"
    # The place inside a list is nothing that was typed; the name of a service in it is.
    inner = ".".join(part for part in rest.split(".") if part and not part.isdigit() and part != "service")
    return f"{option} {inner}" if inner else option
