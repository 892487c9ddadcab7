"""Secrets among a service's options: found by their names, left out of what is written down, and put back.

An option (or a variable of its `env`) is secret by its name, or because it is an address with a password in it. In a
command line, given as a list or as one text, it is the flag and its value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpumod.domain.service import Service

WORDS = frozenset(
    {
        "token",
        "secret",
        "secrets",
        "password",
        "passwd",
        "passphrase",
        "pass",
        "pwd",
        "credential",
        "credentials",
        "key",
        "apikey",
        "keys",
        "auth",
    }
)
PLACES = frozenset({"file", "path", "dir"})
HIDDEN = "(secret)"
SHORTEST = 4
NOTHING = object()
"""A key that is not there: null is a value, and takes a secret away."""

SYSTEMDS_OWN = frozenset(
    {
        *("INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "MAINPID", "MANAGERPID"),
        *("NOTIFY_SOCKET", "SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS", "WATCHDOG_PID", "WATCHDOG_USEC"),
    }
)
"""Variables of systemd's own protocol: no service is given others."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")
_LOGIN = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
_FLAG = re.compile(r"(?<!\S)--?[A-Za-z][\w-]*")
_BETWEEN = re.compile(r"[\s=]+")
_VALUE = re.compile(r"""(=|\s+(?!-))('[^']*'|"[^"]*"|\S+)""")


def why_no_variable(name: str, value: str) -> str:
    """Why a process cannot be given this variable, whoever keeps it; "" where it can."""
    if not _NAME.fullmatch(name):
        return "that is no name of a variable"
    if name in SYSTEMDS_OWN:
        return "it belongs to systemd"
    try:
        is_text = "\0" not in value and value.encode() is not None
    except UnicodeEncodeError:
        is_text = False
    return "" if is_text else "its value is no text in UTF-8"


def is_secret_name(name: str) -> bool:
    """True for a name that speaks of a secret (`HF_TOKEN`, `--api-key`); that of a file which holds one does not."""
    words = [word.lower() for word in _WORD.findall(name)]
    return bool(words) and words[-1] not in PLACES and not WORDS.isdisjoint(words)


def split(value: Any, name: str = "") -> tuple[Any, Any]:
    """`value` without its secrets, and the secrets alone; None where nothing is left, or nothing is secret."""
    if isinstance(value, str | Mapping | list | tuple) and value and is_secret_name(name):
        return None, value
    if isinstance(value, Mapping):
        return _split_mapping(value)
    if isinstance(value, str):
        if _LOGIN.search(value):
            return None, value
        return _split_text(value)
    if isinstance(value, list | tuple):
        return _split_words(value)
    return value, None


def hidden(value: Any, name: str = "") -> Any:
    """`value` with :data:`HIDDEN` in place of its secrets, as it is printed and kept in what is told of a change."""
    left, secret = split(value, name)
    if secret is None:
        return value
    if isinstance(value, Mapping) and not is_secret_name(name):
        return {key: hidden(item, key) for key, item in value.items()}
    if isinstance(left, list):
        return [*left, HIDDEN]
    return HIDDEN if left is None else f"{left} {HIDDEN}"


def is_hidden(value: Any) -> bool:
    """True where :data:`HIDDEN` is in `value`: it was copied from where secrets are left out."""
    if isinstance(value, Mapping):
        return any(map(is_hidden, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_hidden, value))
    return isinstance(value, str) and HIDDEN in value


def discreet(service: Service) -> Service:
    """`service` as it may be shown beside other things."""
    return service.model_copy(update={"unit_vars": hidden(service.unit_vars)})


def secret_values(service: Service) -> frozenset[str]:
    """The words among the secrets of a service's options, wherever they might be repeated; short ones hide nothing."""
    words: set[str] = set()
    waiting = [_split_mapping(service.unit_vars)[1]]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, str):
            words |= {word.strip("'\"") for word in _BETWEEN.split(value) if not word.startswith("-")}
    return frozenset(word for word in words if len(word) >= SHORTEST)


def public(service: Service) -> tuple[Service, tuple[str, ...]]:
    """`service` without the secrets among its options, and the options that held some."""
    left, secret = _split_mapping(service.unit_vars)
    if not secret:
        return service, ()
    return service.model_copy(update={"unit_vars": left or {}}), tuple(_names(secret))


def with_secrets_of(service: Service, stored: Service | None) -> Service:
    """`service` with the secrets of `stored` where it says nothing of its own instead."""
    if stored is None:
        return service
    _, secret = _split_mapping(stored.unit_vars)
    if not secret:
        return service
    return service.model_copy(update={"unit_vars": _put_back(service.unit_vars, secret, stored.unit_vars)})


def _split_mapping(value: Mapping[str, Any]) -> tuple[Any, Any]:
    left, secret = {}, {}
    for key, item in value.items():
        shown, hidden = split(item, key)
        if hidden is None:
            left[key] = item
            continue
        secret[key] = hidden
        if shown is not None:
            left[key] = shown
    return (left or None if secret else left), secret or None


def _split_words(words: Sequence[Any]) -> tuple[Any, Any]:
    left: list[Any] = []
    secret: list[Any] = []
    waiting = False
    for word in words:
        flag = isinstance(word, str) and word.startswith("-")
        if waiting and not flag:
            secret.append(word)
            waiting = False
        elif flag and is_secret_name(word.partition("=")[0]):
            secret.append(word)
            waiting = "=" not in word
        else:
            waiting = False
            login = isinstance(word, str) and _LOGIN.search(word)
            (secret if login else left).append(word)
    return (left, secret) if secret else (words, None)


def _split_text(text: str) -> tuple[Any, Any]:
    """A command line as one text: quotes keep a value together."""
    secret, left, here = [], "", 0
    for flag in _FLAG.finditer(text):
        if flag.start() >= here and is_secret_name(flag[0]):
            value = _VALUE.match(text, flag.end())
            end = value.end() if value else flag.end()
            secret.append(text[flag.start() : end])
            left += text[here : flag.start()].rstrip()
            here = end
    return ((left + text[here:]).strip() or None, secret) if secret else (text, None)


def _put_back(value: Any, secret: Any, stored: Any, name: str = "") -> Any:
    """`value` with `secret`, which was split off `stored`; what says the same without its secret is `stored` again."""
    left = split(stored, name)[0]
    if value is NOTHING and left is not None:  # what is not secret in it was taken away
        value = {} if isinstance(left, Mapping) else "" if isinstance(left, str) else []
    elif value is NOTHING or (left is not None and value == left):
        return stored
    if isinstance(stored, Mapping) and isinstance(value, Mapping) and not is_secret_name(name):
        out = dict(value)
        for key, hidden in secret.items():
            out[key] = _put_back(out.get(key, NOTHING), hidden, stored[key], key)
        return {**{k: out[k] for k in stored if k in out}, **out}
    if left is None or split(value, name)[1] is not None:
        return value
    if isinstance(left, str) and isinstance(value, str):
        return f"{value} {' '.join(secret)}".strip()
    return [*value, *secret] if isinstance(left, list) and isinstance(value, list | tuple) else value


def _names(secret: Mapping[str, Any]) -> list[str]:
    out = []
    for key, hidden in secret.items():
        inner = _names(hidden) if isinstance(hidden, Mapping) else []
        out += [f"{key}.{name}" for name in inner] or [key]
    return out
