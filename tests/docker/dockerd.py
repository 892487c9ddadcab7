"""A Docker Engine of the tests' own, on its own socket, in a temporary folder, ended by its pid."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

STARTS_S = 60.0
PYTHON, HTTPD = "gpumod-test/python:latest", "gpumod-test/httpd:latest"
NEEDED = ("dockerd", "containerd", "docker-init", "busybox", "iptables")


def lacking() -> list[str]:
    """What an engine needs and this machine does not have."""
    places = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in NEEDED if shutil.which(name, path=places) is None] + (
        [] if os.geteuid() == 0 else ["root's rights"]
    )


class Dockerd:
    """`folder` holds everything; its path must be short, as it becomes part of a socket's name."""

    def __init__(self, folder: Path, data: Path | None = None) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self._data = data or folder / "data"
        self._log = folder / "dockerd.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it, again too: containers of before are still there then."""
        words = ["dockerd", "--data-root", self._data, "--exec-root", self.folder / "exec", "-H", self.url]
        words += ["-p", self.folder / "docker.pid"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log, start_new_session=True)
        give_up = time.monotonic() + STARTS_S
        while self.docker("version", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                raise RuntimeError(f"dockerd did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End just this one."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It hangs inside: connections are taken, and nobody answers."""
        if self._process is None:
            raise RuntimeError("it does not run")
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def docker(self, *words: str, check: bool = True, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """One command of Docker's own program at this engine."""
        command = ["docker", "-H", self.url, *words]
        done = subprocess.run(command, input=stdin, capture_output=True)
        if check and done.returncode:
            raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.decode()}")
        return done

    def said(self, *words: str) -> str:
        return self.docker(*words).stdout.decode().strip()

    # --- images: nothing is pulled, they are made of what this machine has

    def make_images(self) -> None:
        self.add_image(HTTPD, busybox_tree(), 'CMD ["/bin/httpd","-f","-p","8000","-h","/www"]')
        self.add_image(PYTHON, _python_tree(), 'CMD ["/bin/sh"]')

    def add_image(self, name: str, tree: bytes, *changes: str) -> None:
        words = [word for change in changes for word in ("-c", change)]
        self.docker("import", *words, "-", name, stdin=tree)


def busybox_tree(health: str = "fine\n") -> bytes:
    """A tar of a system with a shell, a web server, and a page that says `health`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add_busybox(tar)
        _add_text(tar, "www/health", health)
    return buffer.getvalue()


def _add_busybox(tar: tarfile.TarFile) -> None:
    tar.add(str(shutil.which("busybox")), "bin/busybox")
    for name in ("sh", "httpd", "sleep", "cat", "ls", "true", "touch", "id", "env", "kill", "nc"):
        link = tarfile.TarInfo(f"bin/{name}")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text.encode())
    tar.addfile(info, io.BytesIO(text.encode()))


def _python_tree() -> bytes:
    """This interpreter at its own path, with the libraries that it is linked with."""
    real = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    libraries = {word for word in _linked(real) if word.startswith("/")}
    for module in (stdlib / "lib-dynload").glob("*.so"):
        libraries |= {word for word in _linked(module) if word.startswith("/")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add_busybox(tar)
        tar.add(real, str(real).lstrip("/"))
        tar.add(stdlib, str(stdlib).lstrip("/"), filter=_worth_it)
        for library in sorted(libraries):
            tar.add(Path(library).resolve(), library.lstrip("/"))
        if str(real) != sys.executable:
            link = tarfile.TarInfo(sys.executable.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, str(real)
            tar.addfile(link)
    return buffer.getvalue()


def _linked(path: Path) -> list[str]:
    told = subprocess.run(["ldd", str(path)], capture_output=True, text=True).stdout
    return told.split()


def _worth_it(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    skipped = {"site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3"}
    parts = info.name.split("/")
    return None if skipped & set(parts) or any(part.startswith("config-") for part in parts) else info
