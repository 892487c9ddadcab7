"""What of a shell's environment a unit may hold for services: what they inherit, and no secret."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpumod.adapters.environment import impersonal, inherited, lasting

SHELL = {
    "HOME": "/home/ann",
    "PATH": "/home/ann/venv/bin:bin:/usr/bin",
    "LD_LIBRARY_PATH": "/opt/cuda/lib64",
    "HF_HOME": '/srv/50% "off" \\n $HOME',
    "CUDA_VISIBLE_DEVICES": "0",
    "HF_TOKEN": "hf_secret",
    "HTTPS_PROXY": "http://ann:pw@proxy",
    "HF_ENDPOINT": "https://ann:pw@mirror",
    "NCCL_DEBUG_FILE": "a\nb",
    "HF_NOT_TEXT": "\udcff",
    "TMPDIR": "/tmp/user/1000",
    "XDG_RUNTIME_DIR": "/run/user/1000",
    "EDITOR": "vi",
    "DOCKER_HOST": "unix:///run/user/1000/docker.sock",
}


def test_what_holds_after_a_boot_and_may_be_read_by_everybody() -> None:
    kept, left = lasting(SHELL)
    assert kept == {name: SHELL[name] for name in ("HOME", "LD_LIBRARY_PATH", "HF_HOME", "DOCKER_HOST")} | {
        "PATH": "/home/ann/venv/bin:/usr/bin"
    }
    assert left == ("HF_ENDPOINT", "HF_NOT_TEXT", "NCCL_DEBUG_FILE", "TMPDIR")
    assert inherited(SHELL, None).keys() == kept.keys() - {"DOCKER_HOST"} | {*left, "XDG_RUNTIME_DIR"}
    assert lasting({"DOCKER_HOST": "tcp://ann:pw@far"})[1] == ("DOCKER_HOST",)


def test_what_is_inherited_goes_by_the_names_of_secrets() -> None:
    told = {"HF_JWT": "a", "HF_API_TOKENS": "a", "HF_APIKEY": "a", "HF_TOKEN_PATH": "/t", "HF_HUB_DISABLE_XET": "1"}
    assert inherited(told, None).keys() == {"HF_TOKEN_PATH", "HF_HUB_DISABLE_XET", "PATH"}


def test_who_runs_as_another_gets_nothing_that_speaks_of_ones_own_folders() -> None:
    own = {
        "HOME": "/people/ann/",
        "USER": "ann",
        "XDG_CACHE_HOME": "/c",
        "HF_HOME": "/people/ann/hf",
        "CUDA_CACHE_PATH": "/people/ann",
    }
    shared = {"PATH": "/usr/bin", "HF_HUB_CACHE": "/srv/hf", "CUDA_PATH": "/people/anna/cuda", "LANG": "C.UTF-8"}
    assert impersonal({**own, **shared}) == shared
    assert impersonal({"HF_HOME": "/people/ann/hf"}) == {"HF_HOME": "/people/ann/hf"}  # nothing tells whose that is


HOMES = ("/people/ann", "/people/ann/", "/people/ann/hf", "/people/ann/venv/bin", "~", "~/bin")
SHARED = ("/usr/bin", "/people", "/people/anna/bin", "/opt/people/ann", "/srv/~")
OTHER = ("", "bin", "http", "proxy", "8080")


@given(st.lists(st.sampled_from(HOMES + SHARED + OTHER), min_size=1))
def test_of_a_list_of_places_only_ones_own_go(parts: list[str]) -> None:
    value = ":".join(parts)
    left = impersonal({"HOME": "/people/ann", "LD_LIBRARY_PATH": value}).get("LD_LIBRARY_PATH")
    if not set(parts) & set(HOMES):
        assert left == value
    else:
        shared = [part for part in parts if part in SHARED]
        assert left == (":".join(shared) or None)


def test_a_search_path_of_another_user_keeps_what_is_not_ones_own() -> None:
    environ = {"HOME": "/people/ann", "PATH": "/people/ann/.local/bin:/opt/vllm/bin:/usr/bin"}
    assert inherited(impersonal(environ), None)["PATH"] == "/opt/vllm/bin:/usr/bin"
    environ["PATH"] = "/opt/vllm/bin:/people/ann/.local/bin"
    assert inherited(impersonal(environ), None)["PATH"] == "/opt/vllm/bin"
