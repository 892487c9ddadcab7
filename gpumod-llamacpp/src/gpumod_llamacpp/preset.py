"""The INI file of a router, in llama.cpp's own dialect, which has neither quoting nor escaping."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from gpumod.api import Allocation, Service, UsageError
from gpumod_llamacpp.options import llamacpp_options, model_settings

FILE_NAME = "models.ini"
FILES = Path(__file__).parent / "files"


def ini_value(text: str) -> str:
    """`text`, if the dialect can hold it. Raises ValueError: a comment sign or a line end would change its meaning."""
    if not text:
        raise ValueError("is empty")
    if text != text.strip():
        raise ValueError(f"{text!r} begins or ends with a blank")
    bad = sorted({sign for sign in text if sign in ";#" or not sign.isprintable()})
    if bad:
        raise ValueError(f"{text!r} holds {', '.join(map(repr, bad))}, which a router's preset file cannot hold")
    return text


def section(member: Service) -> list[tuple[str, str]]:
    """The lines of one member's section. Raises ValueError that names the service and the key."""
    pairs = [(key, "true" if value is None else value) for key, value in model_settings(member)]
    pairs += _from_args(member)
    if (stop_s := llamacpp_options(member).stop_timeout_s) is not None:
        pairs.append(("stop-timeout", f"{stop_s:.0f}"))
    for n, (key, value) in enumerate(pairs):
        if any(key == other for other, _ in pairs[:n]):
            raise ValueError(f"service {member.id!r}: {key} stands there twice, and a router keeps the last one alone")
        try:
            ini_value(value)
        except ValueError as error:
            raise ValueError(f"service {member.id!r}: {key} {error}") from error
    return pairs


def _options(member: Service, allocation: Allocation) -> list[tuple[str, str]]:
    """The member's own options, which win, and where it is placed."""
    own = section(member)
    return own if any(key == "device" for key, _ in own) else placement(allocation) + own


def placement(allocation: Allocation) -> list[tuple[str, str]]:
    """Which of the GPUs that the router sees are the member's; nothing where it has them all.

    Left alone, llama.cpp spreads a model over every GPU that it sees.
    """
    if not allocation.visible or len(allocation.gpus) in (0, len(allocation.visible)):
        return []
    names = [f"CUDA{allocation.visible.index(share.index)}" for share in allocation.gpus]
    return [("device", ",".join(names)), ("split-mode", "none" if len(names) == 1 else "layer")]


def _from_args(member: Service) -> list[tuple[str, str]]:
    """`--flag value` as `flag = value`; a flag without value as `flag = true`."""
    pairs: list[tuple[str, str]] = []
    open_flag = False
    for arg in llamacpp_options(member).extra_args:
        is_flag = arg.startswith("-") and not arg.lstrip("-")[:1].isdigit()
        if is_flag:
            key, given, value = arg.lstrip("-").partition("=")
            if not key.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"service {member.id!r}: extra_args: {arg!r} is no flag")
            pairs.append((key.replace("_", "-"), value if given else "true"))
            open_flag = not given
        elif open_flag:
            pairs[-1] = (pairs[-1][0], arg)
            open_flag = False
        else:
            raise ValueError(f"service {member.id!r}: extra_args: {arg!r} belongs to no flag")
    return pairs


def render_preset(members: Sequence[tuple[Service, Allocation]]) -> str:
    """The file with exactly these members, by id. Raises UsageError `bad-ini-value`."""
    try:
        sections = [
            {"id": member.id, "vram_mb": allocation.vram_mb, "options": _options(member, allocation)}
            for member, allocation in sorted(members, key=lambda pair: pair[0].id)
        ]
    except ValueError as error:
        why = "the file has no quoting: ; and # begin a comment anywhere, a line end ends the value"
        raise UsageError("bad-ini-value", str(error), why=why, hint="rename the file, or link to it") from error
    return _template().render(members=sections)


@cache
def _template() -> Template:
    # Autoescaping is for HTML; every value was checked against the dialect above.
    env = Environment(  # noqa: S701 - no HTML: it escapes as INI files do
        loader=FileSystemLoader(FILES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return env.get_template("llamacpp-preset.ini.j2")
