"""What a llama.cpp service may not be given: flags and variables that gpumod sets itself, or that open a door."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpumod.api import refuse_flags

SET_BY_OPTIONS = (
    "--host", "--port", "--reuse-port", "--alias", "-a", "--model", "-m", "--model-url", "-mu", "--hf-*", "-hf*",
    "--docker-repo", "-dr", "--models-*", "--no-models-*", "--dedup-cache-models", "--load-on-startup",
    "--stop-timeout", "--sleep-idle-seconds", "--metrics", "--no-metrics", "--api-prefix",
    "--ctx-size", "-c", "--n-gpu-layers", "--gpu-layers", "-ngl", "--fit*", "-fit*",
    "--parallel", "-np", "--flash-attn", "-fa", "--cache-type-k", "-ctk", "--cache-type-v", "-ctv",
    "--ubatch-size", "-ub", "--batch-size", "-b", "--n-cpu-moe", "-ncmoe", "--mmproj", "-mm", "--mmproj-url", "-mmu",
    "--model-draft", "--spec-draft-model", "-md", "--gpu-layers-draft", "--n-gpu-layers-draft", "--spec-draft-ngl",
    "-ngld", "--spec-draft-hf", "--embeddings", "--embedding", "--reranking", "--rerank", "--pooling",
)  # fmt: skip
"""Also those that would choose another model, or let llama.cpp load, sleep or listen otherwise than planned."""

OPENS_TO_OTHERS = ("--api-key*", "--ssl-*", "--cors-*", "--props", "--rpc")
"""Keys and certificates in a command line, other origins, settings over HTTP, machines that get the tensors."""

RUNS_OR_READS = (
    "--tools*", "--agent*", "-ag", "-no-ag", "--mcp-*", "--ui-mcp-*", "--webui-mcp-*", "--video-ffmpeg-dir",
    "--path", "--media-path", "--slot-save-path", "--ui-config*", "--webui-config*", "--log-file", "--log-prompts-dir",
    "--lookup-cache-*", "-lcs", "-lcd", "--prompt-cache*",
)  # fmt: skip
"""These let whoever reaches the port run programs, or read or write files; or they write files themselves."""

ENDS_AT_ONCE = (
    "--help", "-h", "--usage", "--version", "--license", "--list-devices", "--cache-list", "-cl", "--completion-bash",
)  # fmt: skip

SETS_OF_OPTIONS = ("--fim-*", "--gpt-oss-*", "--vision-*", "--embd-gemma-*", "--tts-*")
"""Each stands for a model to be fetched, with a port and sizes of its own."""

DENIED_FLAGS = (*SET_BY_OPTIONS, *OPENS_TO_OTHERS, *RUNS_OR_READS, *ENDS_AT_ONCE, *SETS_OF_OPTIONS)
API_KEY = "LLAMA_API_KEY"
DENIED_ENV = ("LLAMA_ARG_", API_KEY, "LLAMA_APP_CMD", "LLAMA_SERVER_", "GGML_BACKEND_PATH", "AIP_")
"""Ways around the flags that are refused (each has a variable LLAMA_ARG_NAME), and to load a library."""


def refuse_variables(names: Iterable[str]) -> None:
    """Raise ValueError for a variable's name that is denied."""
    for name in names:
        if name.startswith(DENIED_ENV):
            instead = "gpumod itself asks without a key" if name == API_KEY else "use the options instead"
            raise ValueError(f"{name} may not be set here: {instead}")


def refuse_denied(args: Sequence[str]) -> None:
    """Raise ValueError where `args` hold a flag that is denied, with however many dashes.

    A router's file has the flags of a member without their dashes: there `-tools` and `---tools` are the same.
    """
    for arg in args:
        if arg.startswith("-"):
            bare = arg.lstrip("-")
            refuse_flags((arg, f"-{bare}", f"--{bare}"), DENIED_FLAGS)
