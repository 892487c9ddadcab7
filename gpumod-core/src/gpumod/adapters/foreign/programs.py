"""Programs with their versions, folders of models, and configuration files that are known by their places."""

from __future__ import annotations

import glob
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from gpumod.adapters.environment import search_path
from gpumod.adapters.files import open_plain
from gpumod.adapters.trusted import why_not_run
from gpumod.domain.base import has_control_characters
from gpumod.domain.errors import UsageError
from gpumod.domain.settings import Settings
from gpumod.ports.commands import CommandLine
from gpumod.ports.foreign import FolderFound, ProgramFound

VERSION_S = 10.0
"""So long a program may take to tell its version."""
MOST = 10_000
"""So many files are looked at in a folder."""
MIB = 1024 * 1024
_PYTHON = re.compile(rb"/[^\s\"']*/python[0-9.]*")
_FLAG = re.compile(r"--?config(?:=(.*))?", re.DOTALL)


def find(names: Sequence[str], settings: Settings, *, ask: bool = True) -> tuple[ProgramFound, ...]:
    """Those of `names` (or paths) that are there, each asked for its version, side by side; with `ask` False none is
    run for that."""
    path = search_path(os.environ, settings.bin_path)
    places = {name: where for name in names if (where := shutil.which(name, path=path))}
    with ThreadPoolExecutor(max_workers=4) as pool:
        return tuple(pool.map(lambda name: _found(name, places[name], ask=ask), places))


def _found(name: str, path: str, *, ask: bool) -> ProgramFound:
    base = PurePosixPath(name).name
    if version := installed_version(base, Path(path)):
        return ProgramFound(name=base, path=path, version=version)
    if not ask:
        return ProgramFound(name=base, path=path, why="it is not asked: another user's home names it")
    env = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    try:
        if os.geteuid() == 0 and (why := why_not_run(Path(path))):
            return ProgramFound(name=base, path=path, why=f"it is not asked: {why}, and it would run as root")
        done = subprocess.run(
            [path, "--version"], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=VERSION_S, check=False
        )
    except subprocess.TimeoutExpired:
        return ProgramFound(name=base, path=path, why=f"it did not tell its version within {VERSION_S:g} s")
    except OSError as error:
        return ProgramFound(name=base, path=path, why=error.strerror or str(error), failed=True)
    lines = (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace").splitlines()
    if done.returncode:  # a library that it needs is missing, say
        said = _clean(next((line for line in reversed(lines) if line.strip()), "nothing"))
        why = f"it ended with status {done.returncode}: {said}"
        return ProgramFound(name=base, path=path, why=why, failed=True)
    clean = _clean(next((line for line in lines if re.search(r"\d", line)), ""))
    return ProgramFound(
        name=base, path=path, version=clean or None, why="" if clean else "it does not tell its version"
    )


def _clean(line: str) -> str:
    return "".join(c for c in line.strip() if not has_control_characters(c))[:120]


def installed_version(name: str, script: Path) -> str:
    """The version of the distribution `name` beside the Python that `script` is run by, as that was installed.

    To ask vLLM itself would import torch, which takes many seconds. Empty for what is no such script.
    """
    try:
        with open_plain(script) as file:
            head = file.read(512)
    except OSError:
        return ""
    python = _PYTHON.search(head) if head.startswith(b"#!") else None
    if python is None:
        return ""
    folder = Path(os.fsdecode(python[0])).parent.parent / "lib"
    found = sorted(folder.glob(f"python3*/site-packages/{glob.escape(name)}-*.dist-info"))
    return _clean(found[-1].name.removesuffix(".dist-info").partition("-")[2]) if found else ""


def model_folders(settings: Settings) -> tuple[FolderFound, ...]:
    """Folders that usually hold models, and do."""
    home = Path.home()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(settings.hf_home or os.environ.get("HF_HOME") or cache / "huggingface") / "hub"
    places = [settings.models_dir, hub, os.environ.get("LLAMA_CACHE") or cache / "llama.cpp", home / "models"]
    places += [os.environ.get("OLLAMA_MODELS") or home / ".ollama/models", "/usr/share/ollama/.ollama/models"]
    found = []
    for place in dict.fromkeys(Path(place).expanduser() for place in places if place):
        names = list(itertools.islice(_models(place), MOST))
        if names:
            found.append(FolderFound(path=str(place), models=len(names), more=len(names) == MOST))
    return tuple(found)


def _models(place: Path) -> Iterator[str]:
    """GGUF files, repositories of the hub's cache, and ollama's manifests; at most :data:`MOST` files are looked at."""
    looked = 0
    for folder, folders, files in os.walk(place):
        here = [name for name in folders if name.startswith("models--")]
        yield from here
        folders[:] = [name for name in folders if name not in here and name != "blobs"]
        inside = PurePosixPath(folder).parts
        yield from (name for name in files if name.endswith(".gguf") or "manifests" in inside)
        looked += len(files) + len(folders)
        if looked > MOST:
            return


def llama_swap_files(commands: Sequence[CommandLine]) -> tuple[Path, ...]:
    """Configurations of llama-swap: those that `commands` name, and those in its usual places."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = [place for command in commands for place in _named(command)]
    places += [folder / f"config.{end}" for folder in (config / "llama-swap", Path("/etc/llama-swap")) for end in ENDS]
    # what another user's folder hides, or no file can be called, is none
    return tuple(place for place in dict.fromkeys(places) if os.path.isfile(place))  # noqa: PTH113 - what cannot be looked at is none


ENDS = ("yaml", "yml")


def _named(command: CommandLine) -> Iterator[Path]:
    if not any(PurePosixPath(word).name == "llama-swap" for word in command.argv):
        return
    for word, after in itertools.pairwise((*command.argv, "")):
        if match := _FLAG.fullmatch(word):
            yield Path(command.cwd or "/", match[1] or after)


def read_config(path: Path) -> Mapping[str, Any]:
    """A YAML file as a mapping. Raises UsageError `no-file` and `bad-file`."""
    import yaml  # noqa: PLC0415 - for imports alone

    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        why, hint = error.strerror or str(error), "give the path of llama-swap's configuration, such as config.yaml"
        raise UsageError("no-file", f"{path} cannot be read", why=why, hint=hint) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError("bad-file", f"{path} is not YAML", why=" ".join(str(error).split())) from error
    if not isinstance(data, Mapping):
        raise UsageError("bad-file", f"{path} is not a mapping", why="llama-swap's begins with names such as models:")
    return data


def size_mb(path: Path) -> int | None:
    """What a model's file, or its parts, take on the disk; None where it is not there."""
    try:
        if path.is_dir():
            sizes = [file.stat().st_size for file in path.iterdir() if file.suffix in (".safetensors", ".bin", ".gguf")]
        else:
            first = re.sub(r"-00001-of-(\d{5})\.gguf$", r"-*-of-\1.gguf", path.name)
            files = path.parent.glob(first) if "*" in first else [path]
            sizes = [file.stat().st_size for file in files]
    except OSError:
        return None
    return -(-sum(sizes) // MIB) if sizes else None
