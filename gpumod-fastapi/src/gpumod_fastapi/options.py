"""What may stand in `unit_vars` of a service with a command of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue

from gpumod.api import Args, Env, Options, Service, parse_options

HTTP_LEVEL = "http"
PLACEHOLDER = re.compile(r"\{(port|host|model_id|model_path)\}")
UVICORN = ("--host", "{host}", "--port", "{port}")
UrlPath = Annotated[str, Field(pattern=r"^/[!-~]*$")]
Method = Annotated[str, Field(pattern=r"^(GET|POST|PUT|PATCH|DELETE)$")]
Place = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=200)]
"""Where a value is in an answer's JSON: `state.sleeping`, `devices.0.used`."""


class FastApiOptions(Options):
    """Options of one service. The README's table explains them."""

    command: Annotated[Args, Field(min_length=1)] | None = None
    app: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(\))?$")] | None = None
    app_args: Args = ()
    uvicorn_bin: Annotated[str, Field(min_length=1)] = "uvicorn"
    cwd: Annotated[str, Field(pattern=r"^/")] | None = None
    env: Env = {}
    sleep_path: UrlPath | None = None
    sleep_method: Method = "POST"
    sleep_body: JsonValue = None
    wake_path: UrlPath | None = None
    wake_method: Method = "POST"
    wake_body: JsonValue = None
    loads_by_use: bool = False
    asleep_path: UrlPath | None = None
    asleep_field: Place | None = None
    asleep_value: JsonValue = True
    asleep_at_most: float | None = None
    asleep_ram_mb: Annotated[int, Field(ge=0, le=100_000_000)] | None = None
    activity_path: UrlPath | None = None
    activity_fields: Annotated[tuple[Place, ...], Field(min_length=1)] = ("in_flight",)
    health_status: Annotated[int, Field(ge=100, le=599)] = 200
    stop_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    sleep_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    wake_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    unloads_itself: bool = False


def fastapi_options(service: Service) -> FastApiOptions:
    """The options of `service`. Raises ValueError."""
    return parse_options(FastApiOptions, service)


def words_of(options: FastApiOptions) -> tuple[str, ...]:
    """The command as it was written: its own, or uvicorn's for `app`."""
    if options.app is None:
        return options.command or ()
    return (options.uvicorn_bin, options.app, *UVICORN, *options.app_args)


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
        return fill(words_of(fastapi_options(service)), values)
    except ValueError as error:
        raise ValueError(f"service {service.id!r}: {error}") from error


def says_port(service: Service) -> bool:
    """Whether the command, or the environment that is set for it, speaks of the port. It may read PORT all the same."""
    options, port = fastapi_options(service), str(service.port)
    words = (*words_of(options), *options.env.values())
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
    if (options.command is None) is (options.app is None):
        raise ValueError(f"{who}: a fastapi service needs either a command or an app (module:name), and not both")
    if options.app is None and ("app_args" in options.model_fields_set or "uvicorn_bin" in options.model_fields_set):
        raise ValueError(f"{who}: app_args and uvicorn_bin belong to an app, and it has a command of its own")
    if not command_of(service, "127.0.0.1")[0]:
        raise ValueError(f"{who}: the command names no program")
    if service.sleep_mode not in ("none", HTTP_LEVEL):
        raise ValueError(f"{who}: a fastapi service sleeps at {HTTP_LEVEL!r}, not at {service.sleep_mode!r}")
    if service.sleep_mode == HTTP_LEVEL:
        _check_sleep(who, options)


def _check_sleep(who: str, options: FastApiOptions) -> None:
    if not options.sleep_path or not (options.wake_path or options.loads_by_use):
        raise ValueError(
            f"{who}: sleep_mode {HTTP_LEVEL!r} needs the options sleep_path and wake_path (or loads_by_use: true, where"
            " its first request wakes it)"
        )
    for verb, method, body in (
        ("sleep", options.sleep_method, options.sleep_body),
        ("wake", options.wake_method, options.wake_body),
    ):
        if method == "GET" and body is not None:
            raise ValueError(f"{who}: a GET has no body, so {verb}_body needs another {verb}_method")
    if options.asleep_at_most is not None and options.asleep_field is None:
        raise ValueError(f"{who}: asleep_at_most needs asleep_field, which says where the number is")
