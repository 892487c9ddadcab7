"""KV cache beyond the GPU: LMCache beside vLLM, told by a file in the service's folder."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from gpumod.api import LaunchFile, Service
from gpumod_vllm.options import VllmOptions

FILE = "lmcache.yaml"
CONNECTOR = json.dumps({"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"})


def offload_flags(options: VllmOptions) -> list[str]:
    return ["--kv-transfer-config", CONNECTOR] if options.kv_offload else []


def offload_env(options: VllmOptions) -> dict[str, str]:
    """Where LMCache reads what it may take."""
    if not options.kv_offload:
        return {}
    return {"LMCACHE_CONFIG_FILE": options.kv_offload_config or f"{{service_dir}}/{FILE}"}


def offload_files(service: Service, options: VllmOptions) -> tuple[LaunchFile, ...]:
    """The file, where the user has none of their own. Disk space is taken in the service's folder."""
    if not options.kv_offload or options.kv_offload_config:
        return ()
    text = _template().render(
        service=service.id,
        chunk_tokens=options.kv_offload_chunk_tokens,
        cpu_gb=options.kv_offload_cpu_gb,
        disk_gb=options.kv_offload_disk_gb,
        disk_url="file://{service_dir}/lmcache/",
    )
    return (LaunchFile(name=FILE, content=text),)


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent / "files")
    # no HTML: each value is written as JSON, which is YAML too
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    return environment.get_template("lmcache.yaml.j2")
