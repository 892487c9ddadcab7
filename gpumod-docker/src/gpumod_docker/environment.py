"""Variables of a container: names and values (SEC-D10)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from gpumod.api import Env

REFUSED = frozenset({"CUDA_DEVICE_ORDER", "HOSTNAME"})
REFUSED_BEGINNINGS = ("NVIDIA_", "DOCKER_", "CONTAINER_", "LD_", "GLIBC_", "MALLOC_", "BASH_FUNC_", "GCONV_")
"""NVIDIA_*: the engine's runtime reads them, and gives all GPUs, or more of the driver, to whoever asks so."""
GIVEN = frozenset({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"})
"""What gpumod itself tells every service of its GPUs."""
MOST_VARIABLES, LONGEST_VALUE = 200, 32_768


def _named(value: Any) -> Any:
    """Compose's forms too: a list of NAME=VALUE. A name without a value would take it from the engine's side."""
    if isinstance(value, list | tuple) and not all(isinstance(item, str) and "=" in item for item in value):
        raise ValueError("must be NAME: VALUE, or NAME=VALUE")
    if isinstance(value, list | tuple):
        names = [item.partition("=")[0] for item in value]
        if len(set(names)) < len(names):
            raise ValueError("a variable stands there twice")
    return value


def _checked(value: Mapping[str, str]) -> Mapping[str, str]:
    if len(value) > MOST_VARIABLES:
        raise ValueError(f"there are {len(value)} variables; at most {MOST_VARIABLES} are taken")
    refuse_names(value)
    for name, text in value.items():
        if any(ord(char) < 32 and char != "\t" for char in text) or "\x7f" in text:
            raise ValueError(f"the value of {name} holds control characters (SEC-D10)")
        if len(text) > LONGEST_VALUE:
            raise ValueError(f"the value of {name} is {len(text)} characters long; at most {LONGEST_VALUE} are taken")
    return value


def refuse_names(names: Iterable[str]) -> None:
    """Raise ValueError for a name that no container's variable has, whoever gives it: a driver's `env`, a secret."""
    for name in names:
        if name in REFUSED or name.upper().startswith(REFUSED_BEGINNINGS):
            raise ValueError(f"{name} is refused: the container's runtime acts on it, or gpumod sets it (SEC-D10)")


Environment = Annotated[Env, BeforeValidator(_named), AfterValidator(_checked)]
