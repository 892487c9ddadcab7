"""Command lines of others: what the drivers' shared reader makes of flags, wrappers and shells."""

from __future__ import annotations

import pytest

from gpumod.api import Flag, gpus_in, keep_flags, read_flags, words_from

KNOWN = {"--port": Flag("port", "int"), "-c": Flag("size", "int"), "--fast-one": Flag("fast", "switch")}


@pytest.mark.parametrize(
    "argv",
    [
        ("vllm", "serve", "m"),
        ("/usr/bin/python3", "/venv/bin/vllm", "serve", "m"),
        ("env", "A=b", "nice", "-n", "5", "vllm", "serve", "m"),
        ("bash", "-lc", "cd /srv && exec vllm serve m"),
        ("/bin/sh", "-c", "vllm serve 'm'"),
        ("/bin/bash", "-e", "/opt/vllm", "serve", "m"),
        ("sh", "-c", "HF_HOME=/m nohup vllm serve m"),
        ("/venv/bin/python3.12", "-u", "-X", "dev", "/venv/bin/vllm", "serve", "m"),
        ("sudo", "-E", "-u", "ann", "numactl", "-N", "0", "--membind=0", "vllm", "serve", "m"),
        ("taskset", "-c", "0-3", "timeout", "-s", "INT", "1h", "vllm", "serve", "m"),
        ("uv", "run", "--with", "x", "--", "vllm", "serve", "m"),
        ("/opt/conda/bin/python", "/opt/conda/bin/conda", "run", "-n", "ai", "vllm", "serve", "m"),
    ],
)
def test_the_program_is_found_behind_what_starts_it(argv: tuple[str, ...]) -> None:
    found = words_from(argv, "vllm")
    assert found is not None
    assert found[1:] == ("serve", "m")


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("docker", "run", "image", "vllm", "serve", "m"),
        ("sh", "-c", "vllm serve m | tee log"),
        ("sh", "-c", "vllm serve 'm"),
        ("tail", "-f", "vllm.log"),
        ("tmux", "new", "-s", "vllm"),
        ("SCREEN", "-S", "vllm", "vllm", "serve", "m"),
        ("make", "-j8", "vllm"),
        ("sudo", "docker", "run", "image", "vllm", "serve", "m"),
        ("env", "A=b", "make", "vllm"),
        ("nice", "-n", "vllm", "make"),
        ("python3", "download.py", "vllm"),
        ("python3", "-c", "import x", "vllm"),
        ("python3", "-m", "pip", "install", "vllm"),
        ("uv", "pip", "install", "vllm"),
        ("uv", "add", "vllm"),
        ("sudo", "tail", "-f", "/var/log/vllm"),
        ("sh", "deploy.sh", "vllm"),
    ],
)
def test_what_cannot_be_read_is_not_guessed(argv: tuple[str, ...]) -> None:
    assert words_from(argv, "vllm") is None


def test_a_module_that_python_runs_is_a_program() -> None:
    argv = ("nice", "python3", "-I", "-m", "acme.server", "--port", "1")
    assert words_from(argv, "acme.server") == ("acme.server", "--port", "1")
    assert words_from(("docker", "run", "image", *argv), "acme.server") is None


def test_flags_in_all_their_forms() -> None:
    found, rest = read_flags(("--port=1", "--other", "x", "-c", "5", "--fast_one", "--port", "2"), KNOWN)
    assert found == {"port": 2, "size": 5, "fast": True}
    assert rest == ("--other", "x")
    assert read_flags(("--port", "many", "-c"), KNOWN) == ({}, ("--port", "many", "-c"))
    assert read_flags(("--port=many",), KNOWN) == ({}, ("--port=many",))


def test_flags_that_may_not_stay_go_with_their_values() -> None:
    words = ("--api-key", "s3cret", "--seed", "-1", "--api-key=x", "--json", "a\nb", "--last")
    assert keep_flags(words, ("--api-key",)) == (("--seed", "-1", "--last"), ("--api-key", "--json"))


def test_gpus_by_index() -> None:
    assert gpus_in({"CUDA_VISIBLE_DEVICES": "1, 0"}) == (1, 0)
    assert gpus_in({"CUDA_VISIBLE_DEVICES": "GPU-aa"}) is None
    assert gpus_in({}) is None
