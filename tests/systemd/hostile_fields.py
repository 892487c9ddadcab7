"""Every place of a definition that can hold a text, made from the models themselves, and where each arrives."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gpumod.domain.adopted import Adopted
from gpumod.domain.service import Service
from gpumod_fastapi.options import FastApiOptions
from gpumod_llamacpp.options import LlamaCppOptions
from gpumod_vllm.options import VllmOptions

Definition = dict[str, Any]
OPTIONS: Mapping[str, type[BaseModel]] = {"fastapi": FastApiOptions, "vllm": VllmOptions, "llamacpp": LlamaCppOptions}
FLAGS = {"dtype", "quantization", "kv_cache_dtype", "served_model_name", "load_format", "runner", "convert"}
LLAMA_FLAGS = {"cache_type_k", "cache_type_v", "mmproj", "pooling", "flash_attn"}


@dataclass
class Seen:
    """A process as /proc shows it: `words` from the program on, `env`, `cwd`; and what systemd says it is called."""

    words: list[bytes]
    env: dict[bytes, bytes]
    cwd: os.stat_result
    title: str | None


@dataclass(frozen=True)
class Field:
    """`put` gives a definition with a value in this place; what comes of it there is what `arrives` is asked, None
    where no process is told. Of the fields of one `slot` a definition can have one."""

    name: str
    slot: str
    put: Callable[[Definition, str], Definition]
    arrives: Callable[[Seen, bytes], bool] | None = None


class Place:
    """A folder in which files and folders of any name are made; `program` is the recorder."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder, self.program = folder, program

    def path(self, kind: str, name: str) -> str:
        """The absolute path of a folder, a template or a program of this name; where none can be made, of none."""
        path = f"{self.folder}/{kind}/{name}"
        try:
            if kind == "cwd":
                Path(path).mkdir(exist_ok=True)
            elif kind == "template":
                Path(path).write_text('{% extends "unit.service.j2" %}')
            elif not os.path.lexists(path):
                os.link(self.program, path)
        except (OSError, ValueError):
            pass
        return path


def base(driver: str, program: Path, port: int) -> Definition:
    """A definition whose process is the recorder (for vllm and llamacpp by their settings)."""
    options: Definition = {"command": [str(program), "--port", "{port}"]} if driver == "fastapi" else {}
    model = {"model_path": "/m.gguf"} if driver == "llamacpp" else {"model_id": "m"}
    return {
        "driver": driver,
        "port": port,
        "vram_mb": 1,
        "unit_vars": options,
        **(model if driver != "fastapi" else {}),
    }


def fields_of(driver: str, place: Place) -> list[Field]:
    """Each field of the model, each option of the driver, and what they hold inside."""
    slots = {"model_id": "model", "model_path": "model"}
    found = [Field(n, slots.get(n, n), _field(n), _common(n, driver)) for n in Service.model_fields]
    found += [Field(f"adopted.{name}", "adopted", _adopted(name)) for name in Adopted.model_fields]
    found += [
        Field("depends_on[]", "depends_on", lambda d, v: {**d, "depends_on": [v]}),
        Field("/health_endpoint", "health_endpoint", lambda d, v: {**d, "health_endpoint": f"/{v}"}),
        Field("/model_path", "model", lambda d, v: {**d, "model_path": f"/{v}"}, _model_path(driver)),
        Field("/unit_template", "unit_template", lambda d, v: {**d, "unit_template": place.path("template", v)}),
        Field("unit_vars key", "unit_vars", lambda d, v: {**d, "unit_vars": {**d["unit_vars"], v: "x"}}),
    ]
    found += [
        Field(f"option {name}", name, _option(name), _flag(name, driver)) for name in OPTIONS[driver].model_fields
    ]
    found += [
        Field("env value", "env", _option("env", lambda v: {"HOSTILE": v}), lambda s, v: s.env[b"HOSTILE"] == v),
        Field("env name", "env", _option("env", lambda v: {v: "x"}), lambda s, v: s.env[v] == b"x"),
        Field("env words", "env", _option("env", lambda v: [f"HOSTILE={v}"]), lambda s, v: s.env[b"HOSTILE"] == v),
    ]
    if driver == "fastapi":
        words = [str(place.program), "--port", "{port}"]
        found += [
            Field("command words", "command", _command(words), _four_words),
            Field("command line", "command", _option("command", lambda v: _line([*words, v, f"--x={v}"])), _last_words),
            Field(
                "program",
                "command",
                _option("command", lambda v: [place.path("program", v), *words[1:]]),
                lambda s, v: s.words[0] == os.fsencode(place.folder) + b"/program/" + v,
            ),
            Field(
                "/cwd",
                "cwd",
                _option("cwd", lambda v: place.path("cwd", v)),
                lambda s, v: os.path.samestat(s.cwd, Path(place.path("cwd", v.decode())).stat()),
            ),
        ]
        paths = ("sleep_path", "wake_path", "activity_path")
        found += [Field(f"/{name}", name, _option(name, lambda v: f"/{v}")) for name in paths]
        return found
    found += [
        Field("extra word", "extra_args", _option("extra_args", lambda v: ["--note", v, f"--x={v}"]), _last_words),
        Field("extra line", "extra_args", _option("extra_args", lambda v: _line(["--n", v, f"--x={v}"])), _last_words),
    ]
    if driver == "llamacpp":
        found.append(Field("/mmproj", "mmproj", _option("mmproj", lambda v: f"/{v}"), _after("--mmproj", b"/")))
    return found


# --- how a value is put, and where it arrives -----------------------------------------------------------------------


def _field(name: str) -> Callable[[Definition, str], Definition]:
    return lambda definition, value: {**definition, name: value}


def _adopted(name: str) -> Callable[[Definition, str], Definition]:
    kinds = (("unit", "manager"), ("container", "name", "engine"), ("pid", "identity"))
    whole = next(kind for kind in kinds if name in kind)
    given: Definition = {"unit": "x.service", "manager": "system", "container": "a1" * 32, "name": "x", "pid": 4}
    given |= {"identity": "x", "engine": "/run/x.sock"}

    def put(definition: Definition, value: str) -> Definition:
        mine = {"unit": f"x{value}.service", "engine": f"/{value}"}.get(name, value)
        return {**definition, "adopted": {key: given[key] for key in whole} | {name: mine}}

    return put


def _option(name: str, made: Callable[[str], Any] = lambda v: v) -> Callable[[Definition, str], Definition]:
    return lambda definition, value: {**definition, "unit_vars": {**definition["unit_vars"], name: made(value)}}


def _command(words: list[str]) -> Callable[[Definition, str], Definition]:
    """The value as a word, and filled in for the model."""

    def put(definition: Definition, value: str) -> Definition:
        command = [*words, value, f"--a={value}", "{model_id}", "--x={model_path}"]
        options = {**definition["unit_vars"], "command": command}
        return {**definition, "model_id": value, "model_path": value, "unit_vars": options}

    return put


def _line(words: list[str]) -> str:
    return " ".join(map(shlex.quote, words))


def _split(line: bytes) -> list[bytes]:
    return [word.encode() for word in shlex.split(line.decode())]


def _last_words(seen: Seen, value: bytes) -> bool:
    return seen.words[-2:] == [value, b"--x=" + value]


def _four_words(seen: Seen, value: bytes) -> bool:
    return seen.words[-4:] == [value, b"--a=" + value, value, b"--x=" + value]


def _after(flag: str, before: bytes = b"") -> Callable[[Seen, bytes], bool]:
    name = flag.encode()
    return lambda seen, value: seen.words[seen.words.index(name) + 1] == before + value


def _flag(name: str, driver: str) -> Callable[[Seen, bytes], bool] | None:
    if name == "env":
        return lambda s, v: all(s.env[key] == value for key, _, value in (w.partition(b"=") for w in _split(v)))
    if name == "extra_args":
        return lambda seen, value: not _split(value) or seen.words[-len(_split(value)) :] == _split(value)
    if name == "lora_modules":
        return lambda seen, value: not value or _after("--lora-modules")(seen, value)
    known = {"vllm": FLAGS, "llamacpp": LLAMA_FLAGS}.get(driver, set())
    return _after("--" + name.replace("_", "-")) if name in known else None


def _common(name: str, driver: str) -> Callable[[Seen, bytes], bool] | None:
    if name == "name":
        return _title
    if name in ("model_id", "model_path") and driver == "vllm":
        return lambda s, v: s.words[2] == (v or b"m")  # an empty one is none
    return _after("-m") if (name, driver) == ("model_path", "llamacpp") else None


def _model_path(driver: str) -> Callable[[Seen, bytes], bool] | None:
    return {"vllm": lambda s, v: s.words[2] == b"/" + v, "llamacpp": _after("-m", b"/")}.get(driver)


def _title(seen: Seen, value: bytes) -> bool:
    """systemd's Description= ends before blanks; a backslash at its end is doubled, where one would join lines."""
    if seen.title is None or not value:  # nobody keeps a title for it, or it has none but its id
        return True
    text = f"gpumod: {value.decode()}".rstrip(" ")
    return seen.title in (text, text + "\\")
