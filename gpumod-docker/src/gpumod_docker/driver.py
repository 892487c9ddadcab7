"""The driver of containers: any image that serves HTTP on a port."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from gpumod.api import (
    CONTAINER,
    Allocation,
    Capabilities,
    FatalLine,
    Http,
    HttpFailure,
    Launch,
    LogRule,
    ProbeResult,
    Service,
    Settings,
    first_fatal,
)
from gpumod_docker.definition import OF_THE_IMAGE
from gpumod_docker.health import own_health
from gpumod_docker.options import DRIVER, DockerOptions, docker_options

PROBE_TIMEOUT_S = 2.0
PLACEHOLDER = re.compile(r"\{(port|model_id|model_path)\}")
RULES = (
    LogRule(
        "out-of-memory",
        re.compile(r"(CUDA out of memory|cudaMalloc failed: out of memory|CUDA error: out of memory)"),
        "stop what else is on the GPU, or raise vram_mb to what it really takes",
    ),
)


class DockerDriver:
    """Starts what an image runs, and asks its health path or its own HEALTHCHECK."""

    name = DRIVER

    def check(self, service: Service) -> None:
        """Raise ValueError when the service could not run as it says."""
        options = docker_options(service)
        who = f"service {service.id!r}"
        if service.host is not None:
            raise ValueError(f"{who}: a container has no host")
        if service.port is None:
            raise ValueError(f"{who}: a container service needs a port")
        if service.sleep_mode != "none":
            raise ValueError(f"{who}: nothing is known of how it sleeps; sleep_mode must be none: it is stopped")
        if service.run_with not in (None, DRIVER):
            raise ValueError(f"{who}: {service.run_with} keeps no containers; leave run_with out")
        if CONTAINER in service.unit_vars:
            raise ValueError(f"{who}: it is a container: what would stand in `container` stands in unit_vars itself")
        _arguments(service, options, service.port)

    def capabilities(self, service: Service) -> Capabilities:
        return Capabilities()

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        """What is run in the container. Raises ValueError as :meth:`check`."""
        self.check(service)
        options = docker_options(service)
        return Launch(
            argv=_arguments(service, options, service.port or 0),
            ports=(service.port,) if service.port else (),
            stop_timeout_s=options.stop_timeout_s,
        )

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        options = docker_options(service)
        if options.health == "container":
            return await asyncio.to_thread(own_health, service.id, port)
        try:
            reply = await http.request("GET", port, service.health_endpoint, timeout_s=PROBE_TIMEOUT_S)
        except HttpFailure as failure:
            # until the service listens, the engine's proxy takes a connection and drops it
            if failure.kind in ("refused", "protocol"):
                return ProbeResult(state="starting", detail=f"nothing answers on port {port} yet")
            return ProbeResult(state="unhealthy", detail=f"no answer in {PROBE_TIMEOUT_S:g} s")
        if reply.status == options.health_status:
            return ProbeResult(state="ready")
        if reply.status == 503 and "loading" in reply.text.lower():
            return ProbeResult(state="starting", detail="it says that it is loading")
        return ProbeResult(state="unhealthy", detail=f"{service.health_endpoint} answered {reply.status}")

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None:
        """Why it ended, in the words that CUDA programs have for it."""
        return first_fatal(RULES, lines)


def _arguments(service: Service, options: DockerOptions, port: int) -> tuple[str, ...]:
    values = {"port": str(port), "model_id": service.model_id, "model_path": service.model_path}

    def value_of(match: re.Match[str]) -> str:
        value = values[match[1]]
        if value is None:
            raise ValueError(f"service {service.id!r}: the command uses {match[0]}, but it has no {match[1]}")
        return value

    words = [PLACEHOLDER.sub(value_of, word) for word in (*options.entrypoint, *options.command)]
    return tuple(words) if options.entrypoint else (OF_THE_IMAGE, *words)
