"""What a service inherits of the environment of whoever starts it: little, so that it runs the same for everybody.

Inherited are the names below and those that begin with the prefixes below. Never inherited is a name that speaks of a
secret (HF_TOKEN, HF_API_KEY: give it to the service, or keep it in the file that the tool itself reads), a proxy with
a password in it, and CUDA_VISIBLE_DEVICES: which GPUs a service sees is decided by the plan.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from gpumod.domain.base import has_control_characters
from gpumod.domain.secret_names import is_secret_name
from gpumod.domain.secrets import split, why_no_variable

NAMES = frozenset(
    [
        *("HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "PATH", "LD_LIBRARY_PATH"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    ]
)
PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "HF_", "OMP_")
NEVER = frozenset({"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"})
OF_A_PERSON = frozenset({"HOME", "USER", "LOGNAME", "SHELL", "TMPDIR"})
"""Those, with all of XDG_*, are whoever starts it: systemd tells a service of another user its own."""
OF_A_SESSION = frozenset({"TMPDIR", "XDG_RUNTIME_DIR"})
"""Folders that may not be there before anybody has logged in."""
OF_GPUMOD = frozenset({"DOCKER_HOST"})
"""What gpumod itself is told by, and no service inherits: where it finds a container engine."""
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def inherited(environ: Mapping[str, str], bin_path: str | None) -> dict[str, str]:
    """The part of `environ` that a service gets; PATH begins with `bin_path`."""
    kept = {name: value for name, value in environ.items() if _is_inherited(name, value)}
    kept["PATH"] = search_path(environ, bin_path)
    return kept


def impersonal(variables: Mapping[str, str]) -> dict[str, str]:
    """`variables` without those that speak of one user's folders, for a service that runs as another. Of a list of
    places (PATH) the others stay."""
    home = variables.get("HOME", "").rstrip("/")
    shared = {n: v for n, v in variables.items() if n not in OF_A_PERSON and not n.startswith("XDG_")}
    if not home:
        return shared
    left = {name: _without(home, value) for name, value in shared.items()}
    return {name: value for name, value in left.items() if value or not shared[name]}


def _without(home: str, value: str) -> str:
    """`value` without the places in it that are `home` or lie below; where it names one, nothing but places stays."""
    parts = value.split(os.pathsep)
    others = [part for part in parts if part not in (home, "~") and not part.startswith((f"{home}/", "~/"))]
    return value if others == parts else os.pathsep.join(part for part in others if part.startswith("/"))


def lasting(environ: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What services inherit of `environ`, and would have to after a boot too, and what gpumod itself goes by, for a
    file that everybody may read; and the names of what such a file should not hold."""
    found = inherited(environ, None) | {name: environ[name] for name in OF_GPUMOD if name in environ}
    public = {name: value for name, value in found.items() if name not in OF_A_SESSION and _is_public(name, value)}
    return public, tuple(sorted(found.keys() - public.keys() - {"XDG_RUNTIME_DIR"}))  # which systemd tells


def search_path(environ: Mapping[str, str], bin_path: str | None) -> str:
    """Where programs are looked for: `bin_path`, then PATH. Only absolute folders count."""
    folders = [*(bin_path or "").split(os.pathsep), *(environ.get("PATH") or DEFAULT_PATH).split(os.pathsep)]
    absolute = [folder for folder in map(os.path.expanduser, folders) if folder.startswith("/")]
    return os.pathsep.join(dict.fromkeys(absolute))


def _is_inherited(name: str, value: str) -> bool:
    if name in NEVER or is_secret_name(name):
        return False
    if name.upper().endswith("_PROXY") and "@" in value:
        return False
    return name in NAMES or name.startswith(PREFIXES)


def _is_public(name: str, value: str) -> bool:
    return not (has_control_characters(value) or why_no_variable(name, value) or split(value, name)[1] is not None)
