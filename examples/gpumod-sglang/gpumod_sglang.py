"""Runs SGLang under gpumod: one server per model. It sleeps by being stopped: no route of it tells that it sleeps."""

from gpumod import api

SET_HERE = ("--model*", "--host", "--port", "--mem-fraction-static", "--context-length", "--tp*", "--tensor*")
OPENS_IT = ("--config", "--api-key", "--admin-api-key", "--ssl*")


class SglangOptions(api.Options):
    python: api.Word = "python3"
    extra_args: api.Args = ()
    env: api.Env = {}


class SglangDriver:
    name = "sglang"

    def check(self, service: api.Service) -> None:
        options = api.parse_options(SglangOptions, service)
        api.refuse_flags(options.extra_args, (*SET_HERE, *OPENS_IT), abbreviations=True)
        model = service.model_path or service.model_id or ""
        if service.port is None or service.vram_mb < 1 or not model or model.startswith("-"):
            raise ValueError(f"service {service.id!r}: it needs a port, vram_mb, and a model_path or model_id")

    def capabilities(self, service: api.Service) -> api.Capabilities:
        # It measures free memory while it starts, and takes the same part of each GPU.
        return api.Capabilities(exclusive_start=True, equal_part=True)

    def launch(self, service: api.Service, allocation: api.Allocation, settings: api.Settings) -> api.Launch:
        self.check(service)
        options = api.parse_options(SglangOptions, service)
        argv = [options.python, "-m", "sglang.launch_server"]
        argv += ["--model-path", service.model_path or service.model_id or ""]
        argv += ["--host", settings.bind_host, "--port", str(service.port)]
        parts = [gpu.vram_mb / gpu.total_mb for gpu in allocation.gpus if gpu.vram_mb]
        argv += ["--mem-fraction-static", f"{min(0.99, *parts):.4f}"] if parts else []
        argv += ["--context-length", str(service.context_size)] if service.context_size else []
        argv += ["--tp", str(len(allocation.gpus))] if len(allocation.gpus) > 1 else []
        return api.Launch(argv=(*argv, *options.extra_args), env=options.env, ports=(service.port or 0,))

    async def probe(self, service: api.Service, port: int, http: api.Http) -> api.ProbeResult:
        try:
            reply = await http.request("GET", port, service.health_endpoint)
        except api.HttpFailure as failure:
            state = "starting" if failure.kind == "refused" else "unhealthy"
            return api.ProbeResult(state=state, detail=str(failure))
        state = "ready" if reply.ok else "starting" if reply.status == 503 else "unhealthy"
        return api.ProbeResult(state=state, detail=f"{service.health_endpoint} answered {reply.status}")


@api.hookimpl
def gpumod_drivers() -> list[api.DriverOffer]:
    return [api.DriverOffer(name="sglang", summary="SGLang, one server per model", factory=SglangDriver)]
