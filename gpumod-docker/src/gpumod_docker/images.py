"""Images: looked up, and pulled where they are not there, with what the engine tells of that meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gpumod.api import Failed, GpumodError, MachineLacks
from gpumod_docker.engine import said, spoken
from gpumod_docker.options import ContainerOptions

MIB = 1024 * 1024
Tell = Callable[[str], None]


def image_id(path: Path, image: str) -> str | None:
    """The id of an image that is there; None where it is not. Blocking."""
    import docker.errors  # noqa: PLC0415  # slow, and only needed to speak with an engine

    with spoken(path, f"look up the image {image}") as asked:
        try:
            return str(asked.inspect_image(image)["Id"])  # type: ignore[no-untyped-call]  # its stub has no types
        except docker.errors.ImageNotFound:
            return None


async def have(path: Path, options: ContainerOptions, tell: Tell, *, newest: bool) -> str:
    """The id of the image, which is there afterwards; pulled where it is not, and for the `newest` where
    `options.pull` says always. `tell` is given the progress.

    Raises MachineLacks `no-image`, Failed `pull-failed`.
    """
    await asyncio.to_thread(refuse_missing, path, options)
    found = await asyncio.to_thread(image_id, path, options.image)
    if found is None or (newest and options.pull == "always"):
        await _pulled(path, options.image, tell)
        found = await asyncio.to_thread(image_id, path, options.image)
    if found is None:
        raise _missing(options, "it was pulled, and cannot be found")
    return found


def refuse_missing(path: Path, options: ContainerOptions) -> None:
    """Raise MachineLacks `no-image` for one that is not there and not to be pulled. Blocking."""
    if options.pull == "never" and image_id(path, options.image) is None:
        raise _missing(options, "the option pull is never")


def _missing(options: ContainerOptions, why: str) -> MachineLacks:
    return MachineLacks(
        "no-image",
        f"the image {options.image} is not there",
        why=why,
        hint=f"docker pull {options.image}, or set the option pull to missing",
    )


async def _pulled(path: Path, image: str, tell: Tell) -> None:
    """Pull in a thread of its own, which may be left behind: it only fetches, and stops at the next word it hears."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    given_up = threading.Event()

    def end(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def work() -> None:
        error: Exception | None = None
        try:
            _pull(path, image, tell, given_up)
        except Exception as problem:  # noqa: BLE001 - it is raised again where it is waited for
            error = problem
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(end, error)

    threading.Thread(target=work, name=f"pull {image}", daemon=True).start()
    try:
        await done
    finally:
        given_up.set()


def _pull(path: Path, image: str, tell: Tell, given_up: threading.Event) -> None:
    name, tag = _parts(image)
    with spoken(path, f"pull the image {image}") as asked:
        try:
            news = asked.pull(name, tag=tag, stream=True, decode=True)
            follow(image, news, tell, given_up)
        except GpumodError:
            raise
        except Exception as error:
            explanation = getattr(error, "explanation", None)
            if explanation is None:
                raise
            raise pull_failed(image, said(error)) from error


def _parts(image: str) -> tuple[str, str | None]:
    """Name, and tag or digest: without one the engine would pull every tag there is."""
    if "@" in image:
        return image, None
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")


def follow(image: str, news: Iterable[Mapping[str, Any]], tell: Tell, given_up: threading.Event) -> None:
    """Hear the engine out while it pulls. What fails is told in the stream, whose HTTP status was 200.

    Raises Failed `pull-failed`.
    """
    problem = ""
    layers: dict[str, tuple[int, int]] = {}
    ready: set[str] = set()
    for word in news:
        if given_up.is_set():
            return
        problem = problem or str(word.get("error") or (word.get("errorDetail") or {}).get("message") or "")
        layer, status = str(word.get("id", "")), str(word.get("status", ""))
        detail = word.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
        elif status in ("Download complete", "Pull complete", "Already exists"):
            ready.add(layer)
            layers[layer] = (layers.get(layer, (0, 0))[1],) * 2
        have_mb, all_mb = (sum(part[i] for part in layers.values()) // MIB for i in (0, 1))
        tell(f"pulling {image}: {have_mb} of {all_mb} MiB, {len(ready)} of {len(layers)} layers" if layers else status)
    if problem:  # only now: what is heard out leaves its connection whole
        raise pull_failed(image, problem)


def pull_failed(image: str, why: str) -> Failed:
    return Failed(
        "pull-failed",
        f"the image {image} could not be pulled",
        why=why[:500],
        hint=f"try it by hand: docker pull {image} (a private registry needs docker login; is the name right?)",
        image=image,
    )
