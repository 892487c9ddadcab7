"""What the tour is made of: real `gpumod` commands in a home of its own, each with an expectation that must hold."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click


@dataclass
class Tour:
    """Runs commands against `home` and keeps what did not hold. `quiet` prints nothing (for `--json`)."""

    home: Path
    quiet: bool = False
    failures: list[str] = field(default_factory=list)
    chapters: list[str] = field(default_factory=list)

    def chapter(self, title: str, text: str) -> None:
        """Begin a chapter of the tour."""
        self.chapters.append(title)
        if not self.quiet:
            click.secho(f"\n── {len(self.chapters)}. {title} ", bold=True, nl=False)
            click.secho("─" * max(4, 70 - len(title)), bold=True)
            click.echo(text)

    def expect(self, what: str, holds: bool) -> None:
        """Say whether an expectation held, and remember it if it did not."""
        if not holds:
            self.failures.append(f"{self.chapters[-1]}: {what}")
        if not self.quiet:
            click.secho(f"   {'✓' if holds else '✗'} {what}", fg="green" if holds else "red")

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "gpumod", "--home", str(self.home), *args]

    def show(self, *args: str) -> int:
        """Run a command as the user would, with its output on the terminal; returns its exit status."""
        if self.quiet:
            return subprocess.run(self.argv(*args), check=False, capture_output=True).returncode
        click.secho(f"\n$ gpumod {' '.join(args)}", fg="cyan")
        sys.stdout.flush()
        return subprocess.run(self.argv(*args), check=False).returncode

    def ask(self, *args: str) -> Any:
        """Run a command with `--json` and return its document. What asks the tour to end does not reach it."""
        done = subprocess.run(
            self.argv(*args, "--json"), capture_output=True, text=True, check=False, start_new_session=True
        )
        return json.loads(done.stdout)

    def cut_off(self, sign: Path, *args: str) -> int:
        """Run a command and SIGKILL it as soon as the file `sign` appears; its return code."""
        if not self.quiet:
            click.secho(f"\n$ gpumod {' '.join(args)}      (and kill -9 in the middle)", fg="cyan")
        quiet = subprocess.DEVNULL
        with subprocess.Popen(self.argv(*args), stdout=quiet, stderr=quiet) as process:
            try:
                while process.poll() is None and not sign.exists():
                    time.sleep(0.01)
            finally:
                process.kill()
            return process.wait()

    def free_ports(self) -> None:
        """Give services whose ports are taken on this machine others, so that the tour disturbs nobody."""
        for service in self.ask("service", "list")["services"]:
            port = service["port"]
            if port is not None and not _is_free(port):
                self.ask("service", "edit", service["id"], "--port", str(_free_port()))

    def running(self) -> dict[str, str]:
        """State by id of the services that are not stopped."""
        rows = self.ask("status")["services"]
        return {row["id"]: row["state"] for row in rows if row["state"] != "stopped"}

    def running_or_open(self) -> bool:
        """True when the home still has services up or a run that is open."""
        try:
            return bool(self.running() or self.ask("status")["open_run"])
        except (KeyError, ValueError):  # the home was not even made
            return False

    def allocations(self) -> list[Any]:
        """Who holds memory on the simulated card."""
        held: list[Any] = self.ask("sim", "ledger")["allocations"]
        return held

    def completes(self, service_id: str) -> bool:
        """Whether a service answers a completion on its own HTTP port."""
        port = next(row["port"] for row in self.ask("status")["services"] if row["id"] == service_id)
        base = f"http://127.0.0.1:{port}/v1"
        try:
            with urllib.request.urlopen(f"{base}/models", timeout=10) as reply:  # noqa: S310  # our own loopback
                model = json.load(reply)["data"][0]["id"]
            data = json.dumps({"model": model, "prompt": "def f(", "max_tokens": 4}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{base}/completions", data, headers)  # noqa: S310  # our own loopback
            with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310  # our own loopback
                return bool(json.load(reply)["choices"])
        except (OSError, LookupError, ValueError):
            return False


def kinds(alternatives: Sequence[Any]) -> set[str]:
    return {alternative["kind"] for alternative in alternatives}


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def plain_environment() -> None:
    """The tour's commands must not be steered by settings of the caller's own gpumod."""
    for name in [name for name in os.environ if name.startswith("GPUMOD_")]:
        del os.environ[name]
