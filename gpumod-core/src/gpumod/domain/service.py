"""A service: one managed workload."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from gpumod.domain.adopted import Adopted
from gpumod.domain.base import Frozen, Id, Number, Text, clean_json, is_id

Port = Annotated[int, Field(ge=1, le=65535), Number]
MAX_MB = 100_000_000
Mb = Annotated[int, Field(ge=0, le=MAX_MB), Number]
IdleSeconds = Annotated[float, Field(ge=0, le=31_536_000), Number]
"""Idle time after which something sleeps; 0 is never."""
CleanVars = Annotated[Mapping[str, JsonValue], AfterValidator(clean_json)]

STOP_LEVEL = "stop"
"""The sleep level of a service that can sleep only by being stopped."""


class Service(Frozen):
    """The definition of a service, as a preset or a user gives it.

    `vram_mb` is what the service takes awake with `context_size` tokens of context; `kv_cache_per_1k` is the
    cost in MiB of 1000 tokens more or less. `gpus` is "any" (one GPU, the first that fits) or the indices that the
    service spans, `vram_mb` shared evenly among them. `unit_vars` are the driver's options. `host` names the
    service in whose process this one lives (a llama.cpp router); such a member has no port of its own.
    `sleep_mode` is the level it sleeps at; "none" means that it sleeps by being stopped. After
    `idle_timeout` seconds without use `gpumod watch` puts it to sleep (0: never). `adopted` is what somebody
    else set up to run it; gpumod then starts and stops just that.
    """

    id: Id
    name: Text = ""
    driver: Id
    port: Port | None = None
    vram_mb: Mb = 0
    start_peak_mb: Mb | None = None
    asleep_mb: Mb | None = None
    context_size: Annotated[int, Field(ge=1, le=100_000_000), Number] | None = None
    kv_cache_per_1k: Annotated[float, Field(ge=0, le=1_000_000), Number] | None = None
    model_id: Text | None = None
    model_path: Text | None = None
    health_endpoint: Text = "/health"
    startup_timeout: Annotated[float, Field(gt=0, le=86_400), Number] = 600.0
    sleep_mode: Id = "none"
    idle_timeout: IdleSeconds | None = None
    unit_template: Text | None = None
    unit_vars: CleanVars = {}
    role: Id | None = None
    depends_on: tuple[Id, ...] = ()
    gpus: Literal["any"] | tuple[Annotated[int, Field(ge=0, le=255), Number], ...] = "any"
    host: Id | None = None
    run_with: Id | None = None
    pinned: bool = False
    adopted: Adopted | None = None

    @field_validator("unit_template")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        if value is None or (value.startswith("/") and ".." not in value.split("/")):
            return value
        if not is_id(value):
            raise ValueError("must be the name of a template, or the absolute path of one without '..'")
        return value

    @field_validator("health_endpoint")
    @classmethod
    def _path(cls, value: str) -> str:
        if not value.startswith("/") or " " in value:
            raise ValueError("must be a path that begins with / and holds no blanks")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Service:
        if self.id in self.depends_on:
            raise ValueError(f"service {self.id!r} depends on itself")
        if self.host == self.id:
            raise ValueError(f"service {self.id!r} is its own host")
        if self.gpus != "any" and (not self.gpus or len(set(self.gpus)) != len(self.gpus)):
            raise ValueError("gpus must be 'any' or distinct indices")
        if self.start_peak_mb is not None and self.start_peak_mb < self.vram_mb:
            raise ValueError("start_peak_mb is below vram_mb")
        if self.vram_mb and (self.asleep_mb or 0) > self.vram_mb:
            raise ValueError("asleep_mb is above vram_mb")
        return self

    @property
    def title(self) -> str:
        return self.name or self.id

    @property
    def supports_sleep(self) -> bool:
        """True when it can sleep without being stopped."""
        return self.sleep_mode != "none"

    @property
    def sleep_level(self) -> str:
        """The level it sleeps at: its `sleep_mode`, else `stop`."""
        return self.sleep_mode if self.supports_sleep else STOP_LEVEL

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids that must be up before this one: its dependencies and its host."""
        return (*self.depends_on, self.host) if self.host else self.depends_on

    def with_context(self, tokens: int) -> Service:
        """This service with another context size, and `vram_mb` changed by the KV cache's cost per 1000 tokens.

        Raises ValueError when the service declares no context size or no cost, or where it would take more than any
        card has.
        """
        if self.context_size is None or not self.kv_cache_per_1k:
            raise ValueError(f"service {self.id!r} declares no context_size and kv_cache_per_1k")
        delta_mb = math.ceil((tokens - self.context_size) / 1000 * self.kv_cache_per_1k)
        changed = {"context_size": tokens, "vram_mb": max(0, self.vram_mb + delta_mb)}
        if self.start_peak_mb is not None:
            changed["start_peak_mb"] = max(changed["vram_mb"], self.start_peak_mb + delta_mb)
        if self.asleep_mb is not None:
            changed["asleep_mb"] = min(self.asleep_mb, changed["vram_mb"])
        if max(changed["vram_mb"], changed.get("start_peak_mb", 0)) > MAX_MB:
            raise ValueError(f"with {tokens} tokens of context service {self.id!r} would take {changed['vram_mb']} MiB")
        return self.model_copy(update=changed)
