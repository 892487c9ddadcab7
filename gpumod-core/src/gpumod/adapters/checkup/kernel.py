"""What the kernel tells: NVIDIA's module and its devices, memory, sleep states, and who listens for the network."""

from __future__ import annotations

import os
import re
import resource
import socket
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from gpumod.ports.checkup import DeviceFile, MemoryFacts, NvidiaFacts

KIB_PER_MIB = 1024
MIB = 1024 * 1024
LISTENS = "0A"
DEVICE = re.compile(r"nvidia\d+|nvidiactl|nvidia-uvm")


def nvidia(root: Path) -> NvidiaFacts | None:
    """None where NVIDIA's kernel module is not loaded."""
    told = root / "proc/driver/nvidia"
    version = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", _text(told / "version"))
    if not told.is_dir():
        return None
    pairs = (line.partition(":") for line in _text(told / "params").splitlines())
    devices = (root / "dev").glob("nvidia*")
    return NvidiaFacts(
        version=version[1] if version else "",
        params={name.strip(): value.strip() for name, colon, value in pairs if colon},
        devices=tuple(
            DeviceFile(path=f"/dev/{path.name}", usable=os.access(path, os.R_OK | os.W_OK))
            for path in sorted(devices)
            if DEVICE.fullmatch(path.name)
        ),
    )


def memory(root: Path) -> MemoryFacts:
    """Swap, as /proc/meminfo tells it in KiB, and how much this process may lock."""
    told = dict(re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE))
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return MemoryFacts(
        swap_total_mb=int(told.get("SwapTotal", 0)) // KIB_PER_MIB,
        swap_free_mb=int(told.get("SwapFree", 0)) // KIB_PER_MIB,
        memlock_mb=None if limit == resource.RLIM_INFINITY else limit // MIB,
    )


def sleep_states(root: Path) -> Sequence[str]:
    """The kernel's sleep states; none where it has none, or does not tell."""
    return tuple(_text(root / "sys/power/state").split())


def open_ports(root: Path, ports: Collection[int]) -> Mapping[int, str]:
    """The TCP ports of `ports` at which somebody listens on more than this computer's loopback, and the address."""
    return {port: address for address, port in _listeners(root) if port in ports and not _is_loopback(address)}


def _listeners(root: Path) -> Iterator[tuple[str, int]]:
    """Addresses and ports that are listened to. Columns as in proc_pid_net(5)."""
    for table in ("tcp", "tcp6"):
        for line in _text(root / "proc/net" / table).splitlines()[1:]:
            columns = line.split()
            if len(columns) > 3 and columns[3] == LISTENS:
                address, _, port = columns[1].rpartition(":")
                yield _address(address), int(port, 16)


def _address(told: str) -> str:
    """An address as people write it: the kernel tells it as numbers of 32 bits in this machine's order of bytes."""
    numbers = [int(told[at : at + 8], 16) for at in range(0, len(told), 8)]
    packed = struct.pack(f"={len(numbers)}I", *numbers)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.removeprefix("::ffff:").startswith("127.")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
