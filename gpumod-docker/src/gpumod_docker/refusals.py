"""Options that people know from elsewhere and that no container of gpumod's gets, each with the reason.

The options of a container are a closed list, so none of these could be given anyway: they are here to be explained.
Whoever may define a service would otherwise own the machine: a privileged container is root on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ROOT = "it would make the container root on this machine (SEC-D7)"
_NETWORK = "a container has a network of its own, and ports on this machine alone (SEC-D8)"
_SPACE = "a container shares no namespace with this machine or with another container (SEC-D8)"
_MOUNT = "folders come by `volumes` alone, where each is checked (SEC-D9)"
_WALL = "the engine's own walls (seccomp, AppArmor, SELinux, no new privileges) stay up (SEC-D7)"
_GPUS = "which GPUs it sees is decided by gpumod's plan (gpus of the service)"
_OURS = "gpumod itself starts, stops and restarts containers, and keeps them apart"
_HOST = "it would reach into this machine's kernel or memory management"

REASONS: Mapping[str, str] = {
    **dict.fromkeys(("privileged", "capadd", "capdrop", "capabilities", "devicecgrouprules", "groupadd"), _ROOT),
    **dict.fromkeys(("devices", "device", "runtime", "isolation"), _ROOT),
    **dict.fromkeys(("network", "networks", "networkmode", "net", "networkconfig", "networkingconfig"), _NETWORK),
    **dict.fromkeys(("networkdisabled", "links", "link", "extrahosts", "addhost", "dns", "dnssearch"), _NETWORK),
    **dict.fromkeys(("dnsopt", "dnsoptions", "hostname", "domainname", "macaddress", "publishallports"), _NETWORK),
    **dict.fromkeys(("expose", "publish", "portbindings"), "ports are given by `ports` (SEC-D8)"),
    **dict.fromkeys(("pid", "pidmode", "ipc", "ipcmode", "uts", "utsmode", "userns", "usernsmode"), _SPACE),
    **dict.fromkeys(("cgroup", "cgroupns", "cgroupnsmode", "cgroupparent"), _SPACE),
    **dict.fromkeys(("mounts", "mount", "binds", "bind", "tmpfs", "volumesfrom", "volumedriver"), _MOUNT),
    **dict.fromkeys(("securityopt", "securityopts", "maskedpaths", "readonlypaths", "nonewprivileges"), _WALL),
    **dict.fromkeys(("devicerequests", "gpus"), _GPUS),
    **dict.fromkeys(("restart", "restartpolicy", "autoremove", "rm", "name", "containername", "labels"), _OURS),
    **dict.fromkeys(("init", "initpath", "stopsignal", "detach", "tty", "stdinopen", "logconfig", "logging"), _OURS),
    **dict.fromkeys(("sysctls", "sysctl", "oomkilldisable", "oomscoreadj", "storageopt", "kernelmemory"), _HOST),
    **dict.fromkeys(("hostconfig", "extraargs", "args", "build", "configs", "secrets", "profiles"), _OURS),
}
"""By the name of the option, in small letters and without `_` and `-`."""


def refuse(options: Mapping[str, object]) -> None:
    """Raise ValueError for the first option that no container gets, whichever way it is spelt."""
    for name in options:
        reason = REASONS.get(re.sub(r"[_\-. ]", "", str(name)).lower())
        if reason is not None:
            raise ValueError(f"{name!r:.60} is refused: {reason}")
