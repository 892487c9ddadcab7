"""Options of containers: how they are written, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumod.api import Service, Settings
from gpumod_docker.definition import given_by_cdi
from gpumod_docker.inside import view
from gpumod_docker.options import ContainerOptions
from gpumod_docker.ports import PublishedPort


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (8000, (PublishedPort(8000, 8000),)),
        ("7850:8000", (PublishedPort(7850, 8000),)),
        ("127.0.0.1:7850:8000/tcp", (PublishedPort(7850, 8000),)),
        (["7850:8000", 9000], (PublishedPort(7850, 8000), PublishedPort(9000, 9000))),
        ({7850: 8000}, (PublishedPort(7850, 8000),)),
        ("{port}:80", (PublishedPort(0, 80),)),
    ],
)
def test_ports_may_be_written_in_several_ways(written: Any, read: tuple[PublishedPort, ...]) -> None:
    assert ContainerOptions.model_validate({"image": "a", "ports": written}).ports == read


@pytest.mark.parametrize("image", ["ollama/ollama", "localhost:5000/a/b:v1.2", "ghcr.io/x/y@sha256:" + "0" * 64])
def test_references_of_images(image: str) -> None:
    assert ContainerOptions(image=image).image == image


@pytest.mark.parametrize(("written", "read"), [(1000, "1000"), ("1000:1000", "1000:1000"), ("nobody", "nobody")])
def test_a_user_may_be_a_number(written: Any, read: str) -> None:
    """As `--set user=1000` is read, and YAML without quotes."""
    assert ContainerOptions.model_validate({"image": "a", "user": written}).user == read
    for bad in (True, -1, 1.5):
        with pytest.raises(ValueError, match="user"):
            ContainerOptions.model_validate({"image": "a", "user": bad})


def test_read_only_unless_asked() -> None:
    options = ContainerOptions.model_validate({"image": "a", "volumes": ["/srv/a:/a", "/srv/b:/b:rw", "named:/c"]})
    assert [(volume.source, volume.writable, volume.is_named) for volume in options.volumes] == [
        ("/srv/a", False, False), ("/srv/b", True, False), ("named", False, True),
    ]  # fmt: skip


def test_what_a_model_of_the_hubs_cache_is_made_of_is_there_too(tmp_path: Path) -> None:
    """There a model is a folder of links to files beside it. What else links in a folder lead to is not mounted."""
    blobs, snapshot, other = tmp_path / "model/blobs", tmp_path / "model/snapshots/1", tmp_path / "other"
    for folder in (blobs, snapshot, other):
        folder.mkdir(parents=True)
    (other / "secret").touch()
    (snapshot / "planted").symlink_to(other / "secret")
    for name in ("config.json", "model.safetensors"):
        (blobs / name).touch()
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    service = Service(id="a", driver="vllm", port=7850, model_path=str(snapshot), vram_mb=100)
    volumes = view(service, Settings(), ContainerOptions(image="a")).volumes
    assert [(v.source, v.target, v.writable) for v in volumes] == [
        (str(snapshot), str(snapshot), False), (str(blobs), str(blobs), False),
    ]  # fmt: skip
    one = service.model_copy(update={"driver": "llamacpp", "model_path": str(snapshot / "model.safetensors")})
    assert view(one, Settings(), ContainerOptions(image="a")).volumes == volumes
    own = ContainerOptions.model_validate({"image": "a", "volumes": [f"{tmp_path}/model:/models/"]})
    mapped = view(service, Settings(), own)
    assert [(v.source, v.target) for v in mapped.volumes] == [(f"{tmp_path}/model", "/models")]
    assert mapped.service.model_path == "/models/snapshots/1"


@pytest.mark.parametrize("named", ["models/a.gguf", "models/sub/a.gguf", "by-link/a.gguf", "by-link/sub/a.gguf"])
def test_no_link_is_followed_that_the_container_itself_may_have_made(named: str, tmp_path: Path) -> None:
    """It may write its models, and could put a link in the place of one: to be mounted what it leads to."""
    (models := tmp_path / "models").mkdir()
    (other := tmp_path / "other").mkdir()
    (other / "a.gguf").touch()
    (models / "a.gguf").symlink_to(other / "a.gguf")
    (models / "sub").symlink_to(other)
    (tmp_path / "by-link").symlink_to(models)
    service = Service(id="a", driver="llamacpp", port=7850, model_path=f"{tmp_path}/{named}", vram_mb=100)
    for mode, may_be_theirs in (("ro", False), ("rw", True)):
        options = ContainerOptions.model_validate({"image": "a", "volumes": [f"{models}:/models:{mode}"]})
        sources = {volume.source for volume in view(service, Settings(), options).volumes}
        assert (str(other) in sources) is not may_be_theirs


def test_the_services_own_port_is_filled_in_and_not_published_twice() -> None:
    service = Service(id="a", driver="docker", port=7850)
    for written, read in ((["{port}:80"], [(7850, 80)]), ([9000], [(7850, 7850), (9000, 9000)])):
        options = ContainerOptions.model_validate({"image": "a", "ports": written})
        found = view(service, Settings(), options)
        assert list(found.ports) == read
        assert found.service.port == read[0][1]
    options = ContainerOptions.model_validate({"image": "a", "ports": ["{port}:80", "7850:90"]})
    with pytest.raises(ValueError, match="twice"):
        view(service, Settings(), options)


def test_one_port_in_there_is_not_led_to_twice() -> None:
    """The service's own would be lost: the engine is told one number once."""
    service = Service(id="a", driver="docker", port=7850)
    with pytest.raises(ValueError, match="7850 in there is published twice"):
        view(service, Settings(), ContainerOptions.model_validate({"image": "a", "ports": ["7851:7850"]}))
    both = ContainerOptions.model_validate({"image": "a", "ports": ["7851:7850", "{port}:7852"]})
    assert [tuple(port) for port in view(service, Settings(), both).ports] == [(7851, 7850), (7850, 7852)]


@pytest.mark.parametrize(
    ("access", "found", "by_cdi"),
    [
        ("auto", [], False),
        ("auto", ["nvidia.com/gpu=0", "nvidia.com/gpu=all"], False),  # named by their numbers alone
        ("auto", ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1"], False),
        ("auto", ["nvidia.com/gpu=GPU-2", "nvidia.com/gpu=GPU-1"], True),
        ("cdi", [], True),
        ("nvidia", ["nvidia.com/gpu=GPU-2", "nvidia.com/gpu=GPU-1"], False),
    ],
)
def test_gpus_are_given_by_cdi_where_the_engine_knows_just_these(access: str, found: list[str], by_cdi: bool) -> None:
    info = {"DiscoveredDevices": [{"Source": "cdi", "ID": device} for device in found] or None}
    assert given_by_cdi(access, ("GPU-1", "GPU-2"), info) is by_cdi
