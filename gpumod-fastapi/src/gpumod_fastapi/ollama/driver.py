"""The driver of an Ollama that is installed on this machine. It is a host: its models are its members."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gpumod.api import (
    Allocation,
    Capabilities,
    Clock,
    CommandLine,
    Failed,
    FatalLine,
    Http,
    HttpFailure,
    Launch,
    LogRule,
    MemberReading,
    ProbeResult,
    Service,
    Settings,
    Told,
    first_fatal,
)
from gpumod_fastapi.ollama import web
from gpumod_fastapi.ollama.options import LEVEL, check, check_variables, model_of, ollama_options
from gpumod_fastapi.ollama.reading import HEALTH, read_command
from gpumod_fastapi.ollama.runners import Runners

RULES = (
    LogRule(
        "port-taken",
        re.compile(r"Error: listen tcp .*: bind: address already in use"),
        "give it another port, or stop the Ollama that runs there already: `gpumod import ollama` adopts that one",
    ),
    LogRule("out-of-memory", re.compile(r"cudaMalloc failed: out of memory"), "raise vram_mb to what the model takes"),
)


class OllamaDriver:
    """Starts `ollama serve`, and loads and unloads its models. It never pulls one."""

    name = "ollama"

    def __init__(self) -> None:
        self._runners = Runners()

    def check(self, service: Service) -> None:
        check(service)

    def check_variables(self, service: Service, variables: Mapping[str, str]) -> None:
        check_variables(service, variables)

    def capabilities(self, service: Service) -> Capabilities:
        is_host = service.host is None
        return Capabilities(
            sleep_levels=() if is_host else (LEVEL,), hosts_members=is_host, unloads_itself=is_host
        )  # models that are nobody's members come and go as Ollama likes

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        """`ollama serve`. Raises ValueError for a member: its host loads it."""
        self.check(service)
        if service.host is not None:
            raise ValueError(f"service {service.id!r} is loaded by its host {service.host!r}, not started")
        options = ollama_options(service)
        said = {
            "OLLAMA_MODELS": options.models_dir,
            "OLLAMA_CONTEXT_LENGTH": options.context_length,
            "OLLAMA_NUM_PARALLEL": options.num_parallel,
            "OLLAMA_KV_CACHE_TYPE": options.kv_cache_type,
            "OLLAMA_FLASH_ATTENTION": None if options.flash_attention is None else int(options.flash_attention),
        }
        ours = {
            "OLLAMA_HOST": f"{settings.bind_host}:{service.port}",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_MAX_LOADED_MODELS": str(options.max_loaded_models),
            "OLLAMA_NOPRUNE": "1",  # else it deletes at its start what it takes for leftovers
        }
        return Launch(
            argv=(options.ollama_bin, "serve"),
            env={**options.env, **{name: str(value) for name, value in said.items() if value is not None}, **ours},
            ports=(service.port,) if service.port else (),
            stop_timeout_s=options.stop_timeout_s,
        )

    def read_command(self, command: CommandLine) -> Told | None:
        return read_command(command)

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        try:
            if service.host is not None:
                return await _probe_member(service, port, http)
            reply = await http.request("GET", port, HEALTH, timeout_s=web.ASK_S)
        except HttpFailure as failure:
            if failure.kind == "refused":
                return ProbeResult(state="starting", detail="not listening yet")
            return ProbeResult(state="unhealthy", detail=f"it does not answer: {failure}")
        except Failed as failed:
            return ProbeResult(state="unhealthy", detail=f"{failed.info.message}: {failed.info.why}")
        return ProbeResult(state="ready") if reply.ok else ProbeResult(state="unhealthy", detail=web.said(reply))

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None:
        return first_fatal(RULES, lines)

    # --- hosting: its models

    def member_name(self, member: Service) -> str:
        return model_of(member)

    def members_file(self, host: Service, members: Sequence[tuple[Service, Allocation]], settings: Settings) -> None:
        """None: an Ollama has whatever models its folder holds."""

    async def members(self, host: Service, port: int, pids: Sequence[int], http: Http) -> Mapping[str, MemberReading]:
        """Every model that is there, by its name; those that are not loaded sleep. Raises HttpFailure and Failed."""
        loaded = await web.models(port, "/api/ps", http)
        runners = await self._runners.of(loaded, port, pids, http) if pids else {}
        known = await web.models(port, "/api/tags", http)
        told = {name: MemberReading(configured=True) for name in known}
        for name, entry in loaded.items():
            told[name] = MemberReading(configured=True, loaded=True, pid=runners.get(name), detail=web.on_gpu(entry))
        return told

    async def reload(self, host: Service, port: int, http: Http, clock: Clock) -> None:
        """Nothing: it has no file to read again."""

    async def load(self, member: Service, port: int, http: Http, clock: Clock) -> None:
        await web.load(member, port, http, clock)

    async def unload(self, member: Service, port: int, http: Http, clock: Clock) -> None:
        await web.unload(member, port, http, clock)


async def _probe_member(member: Service, port: int, http: Http) -> ProbeResult:
    loaded = await web.models(port, "/api/ps", http)
    return ProbeResult(state="ready" if model_of(member) in loaded else "sleeping")
