"""The driver of one's own HTTP services: any command that opens a port."""

from __future__ import annotations

from collections.abc import Sequence

from gpumod.api import (
    Allocation,
    Capabilities,
    CommandLine,
    FatalLine,
    Http,
    HttpFailure,
    Launch,
    ProbeResult,
    Service,
    Settings,
    Told,
    first_fatal,
)
from gpumod_fastapi.health import PROBE_TIMEOUT_S, ask_health, tells_asleep
from gpumod_fastapi.logs import RULES
from gpumod_fastapi.options import HTTP_LEVEL, check, command_of, fastapi_options, folder_of, says_port
from gpumod_fastapi.reading import read_command


class FastApiDriver:
    """Starts a command and asks its health path."""

    name = "fastapi"

    def check(self, service: Service) -> None:
        check(service)

    def capabilities(self, service: Service) -> Capabilities:
        return Capabilities(
            sleep_levels=(HTTP_LEVEL,) if service.sleep_mode == HTTP_LEVEL else (),
            unloads_itself=fastapi_options(service).unloads_itself,
        )

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        """The command, filled in; the port is in the environment as PORT too. Raises ValueError."""
        check(service)
        options = fastapi_options(service)
        env = {"HF_HOME": settings.hf_home} if settings.hf_home else {}
        return Launch(
            argv=command_of(service, settings.bind_host),
            env=env | dict(options.env) | {"PORT": str(service.port)},
            cwd=folder_of(options),
            ports=(service.port,) if service.port else (),
            stop_timeout_s=options.stop_timeout_s,
        )

    def read_command(self, command: CommandLine) -> Told | None:
        return read_command(command)

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        try:
            reply = await ask_health(service, port, http)
        except HttpFailure as failure:
            if failure.kind == "refused":
                return ProbeResult(state="starting", detail=_not_listening(service, port))
            detail = f"no answer in {PROBE_TIMEOUT_S:g} s" if failure.kind == "timeout" else str(failure)
            return ProbeResult(state="unhealthy", detail=detail)
        if service.sleep_mode == HTTP_LEVEL and tells_asleep(reply):
            return ProbeResult(state="sleeping")
        if reply.status == fastapi_options(service).health_status:
            return ProbeResult(state="ready")
        if reply.status == 503 and "loading" in reply.text.lower():
            return ProbeResult(state="starting", detail="it says that it is loading")
        return ProbeResult(state="unhealthy", detail=f"{service.health_endpoint} answered {reply.status}")

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None:
        """Why it ended, in the words of its own log; asked only of one that did not become ready."""
        return first_fatal(RULES, lines)


def _not_listening(service: Service, port: int) -> str:
    """Also why a start timed out: a command that never heard of its port listens somewhere else, for ever."""
    ask = "" if says_port(service) else ": its command does not use {port}; does the program read the variable PORT?"
    return f"nothing listens on port {port} yet{ask}"
