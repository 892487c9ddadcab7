"""Hand-made results of what was found, adopted, released and imported."""

from __future__ import annotations

from gpumod.domain.adopted import Adopted
from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.footprint import Footprint, Source
from gpumod.domain.service import Service
from gpumod.operations import adoption_results as a
from gpumod.operations import results as r

SERVICE = Service(
    id="writer",
    driver="vllm",
    port=8000,
    vram_mb=9200,
    model_id="acme/writer-7b",
    adopted=Adopted(unit="writer.service", manager="system"),
)
TAKEN = Footprint(service="writer", vram_mb=9200, start_peak_mb=9200, sources={"vram_mb": Source.MEASURED})
SWAP = Service(id="small", driver="llamacpp", port=5800, model_path="/models/small.gguf")
PROBLEM = ErrorInfo(code="which-port", message="process 912 does not say on which port it serves", hint="--port N")
PROPOSALS = (
    a.Proposal(
        id="writer",
        kind="unit",
        what="system unit writer.service",
        command="gpumod service adopt writer.service --manager system --id writer",
        running=True,
        held_mb=9200,
        service=SERVICE,
        notes=("left out: --api-key",),
    ),
    a.Proposal(
        id="app", kind="process", what="process 912", command="gpumod service adopt 912", running=True, problem=PROBLEM
    ),
    a.Proposal(
        id="llama-swap-file",
        kind="llama-swap",
        what="/etc/llama-swap/config.yaml",
        command="gpumod import llama-swap /etc/llama-swap/config.yaml",
    ),
)

SAMPLES: dict[str, Frozen] = {
    "adopted": a.AdoptResult(service=SERVICE, footprint=TAKEN, pids=(811, 830), notes=("left out: --api-key",)),
    "adopted-down": a.AdoptResult(service=SERVICE, footprint=Footprint(service="x", vram_mb=0, start_peak_mb=0)),
    "released-gone": a.ReleaseResult(id="writer", what="process 811", gone=True),
    "released": a.ReleaseResult(id="writer", what="system unit writer.service"),
    "imported": a.ImportResult(
        source="/etc/llama-swap/config.yaml",
        rows=(
            a.ImportRow(name="small", id="small", action="added", service=SWAP, notes=("ttl 300 is not carried",)),
            a.ImportRow(name="a/b:30b", id="a-b-30b", action="skipped", why="it starts a container"),
        ),
        notes=("groups: say which may run together by modes: gpumod mode create",),
        dry_run=True,
    ),
    "init-found": r.InitResult(
        home="/home/ann/.local/share/gpumod",
        created=(),
        settings={},
        services=("chat",),
        modes=("blank",),
        gpus=("0: RTX 4090, 24564 MiB",),
        programs=(
            a.ProgramRow(name="vllm", path="/usr/bin/vllm", why="it did not tell its version within 3 s"),
            a.ProgramRow(name="ollama", path="/usr/bin/ollama", version="ollama version is 0.12.3"),
        ),
        model_folders=(a.FolderRow(path="/home/ann/models", models=12, more=True),),
        units={"system": 88},
        proposals=PROPOSALS,
        taken=("writer",),
        counted_as_nothing=("writer",),
    ),
}
