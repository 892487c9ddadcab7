"""Secrets among a service's options: found by their names, left out of what is written down, and put back.

An option (or a variable of its `env`) is secret by its name, or because it is an address with a password in it. In a
command line, given as a list or as one text, it is the flag and its value, `NAME=value`, or a header.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

from gpumod.domain.errors import UsageError
from gpumod.domain.secret_names import is_secret_name
from gpumod.domain.secret_words import (
    GONE,
    Word,
    has_login,
    parts_of,
    put_in_list,
    put_in_text,
    without_secrets,
    words_of_list,
    words_of_text,
)
from gpumod.domain.service import Service

HIDDEN = "(secret)"
SHORTEST = 4
VARIABLES = ("env", "environment")
"""Options that are mappings of variables."""
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


def split(value: Any, name: str = "") -> tuple[Any, Any]:
    """`value` without its secrets, and the secrets alone; None where nothing is left, or nothing is secret."""
    if isinstance(value, str | Mapping | list | tuple) and value and is_secret_name(name):
        return None, value
    if isinstance(value, Mapping):
        return _split_mapping(value)
    if isinstance(value, str):
        return (None, value) if _is_address(value) else _split_text(value)
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
        elif isinstance(value, list | tuple):  # of a command
            waiting += [item for item in value if not isinstance(item, str)]
            words.update(*(parts_of(item) for item in value if isinstance(item, str)))
        elif isinstance(value, str):
            words |= {value, *parts_of(value)}
    return frozenset(word for word in words if len(word) >= SHORTEST)


def public(service: Service) -> tuple[Service, tuple[str, ...]]:
    """`service` without the secrets among its options, and what those are called: the option, `env.HF_TOKEN`, or
    `command: --api-key` where the rest of an option is not secret."""
    left, secret = _split_mapping(service.unit_vars)
    if not secret:
        return service, ()
    return service.model_copy(update={"unit_vars": left or {}}), tuple(_names(service.unit_vars, secret))


def with_secrets_of(service: Service, stored: Service | None) -> Service:
    """`service` with the secrets of `stored` where it says nothing of its own instead.

    Raises UsageError `bad-box` where a command with secrets was changed and nobody can tell where they belong now.
    """
    unit_vars = dict(service.unit_vars)
    try:
        if stored is not None and (secret := _split_mapping(stored.unit_vars)[1]):
            unit_vars = _put_back(unit_vars, secret, stored.unit_vars)
    except ValueError as error:
        path = str(error)
        option = path.partition(".")[0]
        raise UsageError(
            "bad-box",
            f"service {service.id!r}: {path!r} holds secrets and was changed",
            why="where they belong in it now is not sure: write it whole, with them, or keep them apart by"
            f" `gpumod service secret set {service.host or service.id} NAME`",
            hint=f"`gpumod service edit {service.id} --set '{option}=...'` writes it anew, without them",
        ) from error
    return service.model_copy(update={"unit_vars": {key: _without_taken(key, item) for key, item in unit_vars.items()}})


def _without_taken(name: str, option: Any) -> Any:
    """`option` without the secrets that null takes away, where it is a mapping of variables."""
    if name not in VARIABLES or not isinstance(option, Mapping):
        return option
    return {key: item for key, item in option.items() if item is not None or not is_secret_name(key)}


def _is_address(value: Any) -> bool:
    """True for an address with a password, which is secret as a whole; False for a command with one in it."""
    return isinstance(value, str) and has_login(value) and not any(map(str.isspace, value))


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
    read = _words(words)
    secret = [secret for word in read for secret in word.secrets]
    return ([word.left for word in read if word.left is not GONE], secret) if secret else (words, None)


def _split_text(text: str) -> tuple[Any, Any]:
    left, held = without_secrets(text, words_of_text(text))
    return (left or None, [secret for word in held for secret in word.secrets]) if held else (text, None)


def _words(command: str | Sequence[Any]) -> list[Word]:
    if isinstance(command, str):
        return words_of_text(command)
    return words_of_list(command, lambda item: split(item)[1] is not None)


def _put_back(value: Any, secret: Any, stored: Any, name: str = "") -> Any:
    """`value` with `secret`, which was split off `stored`; what says the same without its secret is `stored` again.

    Raises ValueError, with the option's name, where a command was changed and nobody can tell where its secrets belong
    now.
    """
    left = split(stored, name)[0]
    if value is NOTHING and left is not None:  # what is not secret in it was taken away
        value = {} if isinstance(left, Mapping) else "" if isinstance(left, str) else []
    elif value is NOTHING or (left is not None and value == left):
        return stored
    if isinstance(stored, Mapping) and isinstance(value, Mapping) and not is_secret_name(name):
        out = dict(value)
        for key, hidden in secret.items():
            try:
                out[key] = _put_back(out.get(key, NOTHING), hidden, stored[key], key)
            except ValueError as error:
                raise ValueError(f"{name}.{error}" if name else str(error)) from None
        return {**{k: out[k] for k in stored if k in out}, **out}
    if value is None or is_secret_name(name) or _is_address(stored):
        return value
    own = Counter(_names_in(value, split(value, name)[1]))
    if own and _without_others(stored, own.keys()) == value:
        return stored
    whole = None if own else _with_words_of(stored, value)
    if whole is None and Counter(_names_in(stored, secret)) - own:
        raise ValueError(name)
    return value if whole is None else whole


def _with_words_of(stored: Any, command: Any) -> Any:
    """`command` with the secrets of `stored`, each where it was; None where that is not sure."""
    whole: Any = None
    if isinstance(stored, str) and isinstance(command, str):
        whole = put_in_text(command, _words(stored))
    elif isinstance(stored, list | tuple) and isinstance(command, list | tuple):
        whole = put_in_list(command, _words(stored))
    left = split(whole)[0]
    same = left == list(command) if isinstance(left, list) else (left or "") == command
    return whole if whole is not None and same else None


def _without_others(stored: Any, own: Set[str]) -> Any:
    """A command without those of its secrets that do not go by the names of `own`."""
    words: list[Word] = []
    stays = False
    for word in _words(stored):
        stays = own >= set(word.names) if word.names else stays  # a value goes with its flag
        kept = Word(word.whole, word.whole, start=word.start, end=word.end)
        words.append(kept if word.secrets and stays else word)
    if isinstance(stored, str):
        return without_secrets(stored, words)[0]
    return [word.left for word in words if word.left is not GONE]


def _names_in(value: Any, secret: Any) -> tuple[str, ...]:
    if secret is None:
        return ()
    if isinstance(value, Mapping):
        return tuple(secret)
    return tuple(name for word in _words(value) for name in word.names)


def _names(value: Mapping[str, Any], secret: Mapping[str, Any]) -> list[str]:
    """What to call the secrets of options: `env.HF_TOKEN`, `command: --api-key`."""
    out = []
    for key, hidden in secret.items():
        if isinstance(hidden, Mapping) and not is_secret_name(key):
            out += [f"{key}.{name}" for name in _names(value[key], hidden)]
        elif hidden == value[key]:
            out.append(key)
        else:
            out += [f"{key}: {name}" for name in sorted(set(_names_in(value[key], hidden)))] or [key]
    return out
