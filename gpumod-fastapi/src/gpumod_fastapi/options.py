"""What may stand in `unit_vars` of a service with a command of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gpumod.api import Args, Env, Options, Service, parse_options

HTTP_LEVEL = "http"
PLACEHOLDER = re.compile(r"\{(port|host|model_id|model_path)\}")
UrlPath = Annotated[str, Field(pattern=r"^/[!-~]*$")]


class FastApiOptions(Options):
    """Options of one service. The README's table explains them."""

    command: Annotated[Args, Field(min_length=1)]
    cwd: Annotated[str, Field(pattern=r"^/")] | None = None
    env: Env = {}
    sleep_path: UrlPath | None = None
    wake_path: UrlPath | None = None
    activity_path: UrlPath | None = None
    health_status: Annotated[int, Field(ge=100, le=599)] = 200
    stop_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    sleep_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    wake_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    unloads_itself: bool = False


def fastapi_options(service: Service) -> FastApiOptions:
    """The options of `service`. Raises ValueError."""
    return parse_options(FastApiOptions, service)


def fill(words: tuple[str, ...], values: Mapping[str, str | None]) -> tuple[str, ...]:
    """Put values into `{port}` and the like, word by word: what a value holds is never split or filled again.

    Other braces stay as they are. Raises ValueError for a placeholder without a value.
    """

    def value_of(match: re.Match[str]) -> str:
        value = values[match[1]]
        if value is None:
            raise ValueError(f"the command uses {match[0]}, but the service has no {match[1]}")
        return value

    return tuple(PLACEHOLDER.sub(value_of, word) for word in words)


def command_of(service: Service, bind_host: str) -> tuple[str, ...]:
    """The service's command, filled in. Raises ValueError."""
    values = {
        "port": str(service.port),
        "host": bind_host,
        "model_id": service.model_id,
        "model_path": service.model_path,
    }
    try:
        return fill(fastapi_options(service).command, values)
    except ValueError as error:
        raise ValueError(f"service {service.id!r}: {error}") from error


def says_port(service: Service) -> bool:
    """Whether the command, or the environment that is set for it, speaks of the port. It may read PORT all the same."""
    options, port = fastapi_options(service), str(service.port)
    words = (*options.command, *options.env.values())
    return any(sign in word for word in words for sign in ("{port}", "PORT", port))


def folder_of(options: FastApiOptions) -> Path | None:
    return Path(options.cwd) if options.cwd else None


def check(service: Service) -> None:
    """Raise ValueError when the service could not run, or could not sleep, as it says."""
    options = fastapi_options(service)
    who = f"service {service.id!r}"
    if service.host is not None:
        raise ValueError(f"{who}: a fastapi service has no host")
    if service.port is None:
        raise ValueError(f"{who}: a fastapi service needs a port")
    if not command_of(service, "127.0.0.1")[0]:
        raise ValueError(f"{who}: the command names no program")
    if service.sleep_mode not in ("none", HTTP_LEVEL):
        raise ValueError(f"{who}: a fastapi service sleeps at {HTTP_LEVEL!r}, not at {service.sleep_mode!r}")
    if service.sleep_mode == HTTP_LEVEL and not (options.sleep_path and options.wake_path):
        raise ValueError(f"{who}: sleep_mode {HTTP_LEVEL!r} needs the options sleep_path and wake_path")
