"""A computer of small files, as `gpumod doctor` sees one: /proc, /sys, /dev, polkit's rules, and a `systemctl`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEMCTL = r"""#!/bin/sh
here=$(dirname "$0")/..
scope=system
found=
for word in "$@"; do
  case $word in
    --user) scope=user ;;
    --) found=1; first=1 ;;
    *)
      [ -n "$found" ] || continue
      [ -n "$first" ] || echo
      first=
      cat "$here/$scope/$word" 2>/dev/null || printf 'Id=%s\nLoadState=not-found\n' "$word"
      ;;
  esac
done
[ -n "$found" ] || { [ ! -e "$here/$scope/hangs" ] || exec sleep 60; cat "$here/$scope/manager"; }
"""
NVIDIA = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 06:54:38 UTC 2025\n"
TCP_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


class Computer:
    """Files below `root`. Nothing is there at first: no driver, no systemd, no sleep state."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"PATH": f"{root}/bin:{os.environ['PATH']}", "XDG_RUNTIME_DIR": f"{root}/run/user"}

    def write(self, name: str, text: str = "", mode: int = 0o644) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def boot(self, **managers: str) -> None:
        """systemd runs, with these managers (`user`, `system`) in these states."""
        self.write("bin/systemctl", SYSTEMCTL, 0o755)
        (self.root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
        (self.root / "run/user/systemd").mkdir(parents=True, exist_ok=True)
        for scope, state in managers.items():
            self.write(f"{scope}/manager", f"Version=252.1\nSystemState={state}\nNFailedUnits=0\n")

    def unit(self, scope: str, name: str, **properties: str) -> None:
        told = {"Id": name, "LoadState": "loaded", "NeedDaemonReload": "no", **properties}
        self.write(f"{scope}/{name}", "".join(f"{key}={value}\n" for key, value in told.items()))

    def nvidia(self, params: Mapping[str, str] | None = None, devices: str = "nvidiactl nvidia0 nvidia-uvm") -> None:
        """The driver's module is loaded."""
        self.write("proc/driver/nvidia/version", NVIDIA)
        self.write("proc/driver/nvidia/params", "".join(f"{key}: {value}\n" for key, value in (params or {}).items()))
        for name in devices.split():
            self.write(f"dev/{name}")

    def memory(self, swap_total_mb: int, swap_free_mb: int) -> None:
        self.write("proc/meminfo", f"SwapTotal: {swap_total_mb * 1024} kB\nSwapFree: {swap_free_mb * 1024} kB\n")

    def listeners(self, *rows: str, table: str = "tcp") -> None:
        """Sockets that listen, each `ADDRESS:PORT` as the kernel writes it (hexadecimal)."""
        lines = [f"   {n}: {row} 00000000:0000 0A 0:0 00:0 0 0 0 1\n" for n, row in enumerate(rows)]
        self.write(f"proc/net/{table}", TCP_HEAD + "".join(lines))
