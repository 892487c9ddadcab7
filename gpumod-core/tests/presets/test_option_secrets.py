"""Secrets among options: known by their names, left out of what is public, put back where they were or not at all."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumod.domain.errors import UsageError
from gpumod.domain.secret_names import is_secret_name
from gpumod.domain.secrets import public, secret_values, split, with_secrets_of
from gpumod.domain.service import Service
from gpumod.operations.differences import fields_of
from gpumod.operations.secrets import told_of_secrets

KEY = "KKKK-hunter2"
SECRET_PARTS = (
    ("--api-key", KEY),
    (f"--api-key={KEY}",),
    (f"OPENAI_API_KEY={KEY}",),
    (f"--env=API_KEY={KEY}",),
    ("--header", f"Authorization: Bearer {KEY}"),
    (f"--header=Authorization: Bearer {KEY}",),
    (f"postgres://me:{KEY}@host/db",),
    ("--hf-token", KEY, "--password", KEY),
    ("sh", "-c", f"exec python3 tok.py --api-key={KEY} serve"),
    ("sh", "-c", f"PORT=1 API_KEY={KEY} exec serve"),
    ("sh", "-c", f"curl -H 'Authorization: Bearer {KEY}' localhost"),
    (f"--header=X-Api-Key:{KEY}",),
    ("-sH", f"X-Api-Key:{KEY}"),
    (f"-HX-Api-Key:{KEY}",),
    ("sh", "-c", f"cd x&&API_KEY={KEY} serve"),
    ("sh", "-c", f"PORT=1;API_KEY={KEY};exec serve"),
    ("--set", f"auth.api_key={KEY}"),
    ("--opts", f"a=1,token={KEY}"),
)
SAME = object()
KEPT = (SAME, None)
FLAGS = ("--api-key", "--hf-token", "--password")
PLAIN = ("serve", "--port", "{port}", "--no-auth", "--token-limit", "--max-tokens", "4096", "-x", "a b", "A=1", "", 5)
texts = st.text("'\"\\-= A:;/@(", max_size=8) | st.sampled_from(PLAIN[:-1])
secrets = st.sampled_from(
    ["--api-key", "--api-key=x", "API_KEY=x", "Cookie:", "http://a:b@c/", "run --api-key 'a b' -x"]
)
lines = st.lists(texts | secrets, max_size=6).map(" ".join)
keys = st.sampled_from(["HF_TOKEN", "env", "password", "max_tokens", "args", "command", "a"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | secrets | lines,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def of(**unit_vars: Any) -> Service:
    return Service(id="a", driver="d", unit_vars=unit_vars)


services = st.dictionaries(keys, values, max_size=4).map(lambda unit_vars: of(**unit_vars))
commands = st.lists(
    st.sampled_from(SECRET_PARTS) | st.sampled_from(PLAIN).map(lambda word: (word,)), min_size=1, max_size=6
).map(lambda parts: [word for part in parts for word in part])


def in_one(words: list[Any]) -> str:
    """A command as one text, for a shell to read."""
    quoted = (
        f'"{word}"' if "'" in word else f"'{word}'" if " " in word or not word else word for word in map(str, words)
    )
    return " ".join(quoted)


def behind(command: Any) -> list[Any]:
    """The word before each secret, or before its flag."""
    words = ["", *(command.split() if isinstance(command, str) else map(str, command))]
    return [before for before, word in pairwise(words) if word in FLAGS or (KEY in word and before not in FLAGS)]


@settings(max_examples=100, deadline=None)
@given(services)
def test_secrets_are_left_out_and_put_back(service: Service) -> None:
    service = with_secrets_of(service, None)  # as a document is stored
    shown, names = public(service)
    assert public(shown) == (shown, ())
    assert bool(names) == (shown != service)
    assert with_secrets_of(shown, service) == service


@settings(max_examples=60, deadline=None)
@given(services, services)
def test_what_a_document_says_wins_over_what_was_stored(said: Service, stored: Service) -> None:
    stored = with_secrets_of(stored, None)
    with suppress(UsageError):
        both = with_secrets_of(said, stored)
        assert both.unit_vars.keys() >= said.unit_vars.keys()
        assert both == with_secrets_of(said, both)  # said again


@settings(max_examples=60, deadline=None)
@given(commands)
def test_no_secret_is_public_in_a_command(words: list[Any]) -> None:
    for command in (words, in_one(words), [in_one(words)]):
        shown, names = public(of(command=command))
        assert KEY not in str((shown, names))
        assert bool(names) == (KEY in str(command))
        assert with_secrets_of(shown, of(command=command)) == of(command=command)
        if names:
            assert KEY in secret_values(of(command=command))


@settings(max_examples=100, deadline=None)
@given(commands, st.integers(0, 9), st.sampled_from(["--verbose", "--level=2", "positional", None]))
def test_an_edited_command_is_the_edit_or_refused(words: list[Any], at: int, new: str | None) -> None:
    """A secret is never lost, nor moved: without it the command is what was said, and each stands behind its word."""
    for stored in (words, in_one(words)):
        left = split(stored)[0]
        if split(stored)[1] is None or not left or "://" in str(stored):
            continue
        parts: list[Any] = left.split() if isinstance(left, str) else list(left)
        if new is None:
            del parts[min(at, len(parts) - 1)]
        else:
            parts.insert(min(at, len(parts)), new)
        said = " ".join(map(str, parts)) if isinstance(left, str) else parts
        if split(said)[1] is not None:
            continue
        with suppress(UsageError):
            both = with_secrets_of(of(command=said), of(command=stored)).unit_vars["command"]
            assert (split(both)[0] or type(said)()) == said
            assert str(both).count(KEY) == str(stored).count(KEY)
            assert behind(both) == behind(stored)


@pytest.mark.parametrize(
    ("value", "left", "secret"),
    [
        ({"HF_TOKEN": "t", "A": "1"}, {"A": "1"}, {"HF_TOKEN": "t"}),
        ({"env": {"OPENAI_API_KEY": "k"}}, None, {"env": {"OPENAI_API_KEY": "k"}}),
        ({"env": ["API_KEY=k", "A=1"]}, {"env": ["A=1"]}, {"env": ["API_KEY=k"]}),
        ({"env": "API_KEY=k"}, None, {"env": ["API_KEY=k"]}),
        ({"max_tokens": 5, "num_key_value_heads": 8}, {"max_tokens": 5, "num_key_value_heads": 8}, None),
        (["--api-key", "x", "--foo", "--hf-token=y", "z"], ["--foo", "z"], ["--api-key", "x", "--hf-token=y"]),
        (["--api-key-file", "/a", "--password", "--next"], ["--api-key-file", "/a", "--next"], ["--password"]),
        ([{"HF_TOKEN": "t"}, "a"], ["a"], [{"HF_TOKEN": "t"}]),
        ("serve --api-key 'a b'  --port 1", "serve  --port 1", ["--api-key", "'a b'"]),
        ("--api-key 'x'--token y", "y", ["--api-key", "'x'--token"]),
        ("env OPENAI_API_KEY=X python3 srv.py", "env python3 srv.py", ["OPENAI_API_KEY=X"]),
        ("sh -c 'A=1 API_KEY=X exec srv' a", "sh -c 'A=1 exec srv' a", ["API_KEY=X"]),
        ("sh -c \"srv --api-key 'a b' -x\"", 'sh -c "srv -x"', ["--api-key", "'a b'"]),
        ('sh -c "srv -H \\"Authorization: X\\" -x"', 'sh -c "srv -H -x"', ['\\"Authorization: X\\"']),
        ('sh -c "sh -c \\"srv --api-key X go\\" -x"', 'sh -c "sh -c \\"srv go\\" -x"', ["--api-key", "X"]),
        (["sh", "-c", "srv --api-key=X go"], ["sh", "-c", "srv go"], ["--api-key=X"]),
        ("srv --header 'Authorization: Bearer X' -x", "srv --header -x", ["'Authorization: Bearer X'"]),
        ("srv -H X-API-Key: abc def", "srv -H", ["X-API-Key:", "abc", "def"]),
        (["-H", "Authorization:Bearer X", "-H", "Accept: a"], ["-H", "-H", "Accept: a"], ["Authorization:Bearer X"]),
        ("postgres://me:pw@host/db", None, "postgres://me:pw@host/db"),
        ("http://127.0.0.1:80/@x", "http://127.0.0.1:80/@x", None),
        ("srv \\ --api-key=X \\ -x", "srv \\ -x", ["\\ --api-key=X"]),
        ("curl http://h/?a=1&token=X -s", "curl -s", ["http://h/?a=1&token=X"]),
        ("srv --sas-token sv=2&sig=X --port 1", "srv --port 1", ["--sas-token", "sv=2&sig=X"]),
        ("env A_SECRET=a;b|c=d srv", "env srv", ["A_SECRET=a;b|c=d"]),
        ("sh -c 'srv --password a|b=c'", "sh -c 'srv|b=c'", ["--password", "a"]),
        ("srv --db pg://a:X@h/x -v --api-key Y", "srv --db -v", ["pg://a:X@h/x", "--api-key", "Y"]),
        ("srv --api-key '-kdHs82' -x", "srv -x", ["--api-key", "'-kdHs82'"]),
        (["srv", "-HF_TOKEN", "X"], ["srv"], ["-HF_TOKEN", "X"]),
        ("env ARGS='--password a&-b=c' srv", "env ARGS='' srv", ["--password", "a&-b=c"]),
        ("srv --override-kv tokenizer.ggml.add_sep_token=bool:false", *KEPT),
        ("srv --override-kv a.attention.key_length_mla=int:192,b.key=true", *KEPT),
        (["--header=Accept:a", "auth:8080"], *KEPT),
        (["-Hcookie:X", "-sHauthorization: X", "-Host=a"], ["-Host=a"], ["-Hcookie:X", "-sHauthorization: X"]),
        ("sh -c 'cd x&&API_KEY=X srv'", "sh -c 'cd x srv'", ["&&API_KEY=X"]),
        ("sed s;a;b; f | srv&&true", "sed s;a;b; f | srv&&true", None),
        (
            "python3 prog.py --no-auth serve --token-limit 4096",
            "python3 prog.py --no-auth serve --token-limit 4096",
            None,
        ),
        ("env API_KEY= A=1 srv --upstream auth:8080", "env API_KEY= A=1 srv --upstream auth:8080", None),
    ],
)
def test_what_is_a_secret(value: Any, left: Any, secret: Any) -> None:
    assert split(value) == (value if left is SAME else left, secret)


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "--api-key", "apiKey", "AWS_SECRET_ACCESS_KEY", "OPENAI_APIKEY", "auth", "API_KEY_2", "token2"),
        *("PGPASSWORD", "DBPASSWORD", "MYTOKEN", "HFTOKEN", "ACCESSTOKEN", "MYSECRET", "SECRETKEY", "PGPASS"),
        *("API_TOKENS", "JWT", "COOKIE", "Authorization", "X-API-Key"),
        *("SECRET_ID", "--secret-id", "MIN_IO_SECRET", "MAX_PASSWORD"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer", "max_tokens", "--api-key-file", "author", "monkey", "keyboard", "", "--no-auth", "tokens"),
        *("--token-limit", "--disable-auth", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_TOKEN_PATH", "eos_token", "compass"),
        *("--thinking-token-budget", "key_id", "auth-type", "num_key_value_heads", "n_tokens", "PASSWORD_FILE"),
        *("--enable-auth-token", "--no-password", "max_key_len", "num_keys", "n_keys2", "max_auth_attempts", "n_pass"),
    ],
)
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("stored", "said", "both"),
    [
        (
            "python3 tok.py --api-key k serve --port {port}",
            "python3 tok.py serve --port {port} --verbose",
            "python3 tok.py --api-key k serve --port {port} --verbose",
        ),
        (["--api-key", "k", "-x", "1"], ["-x", "2"], ["--api-key", "k", "-x", "2"]),
        ("run --token t -x", "run -y", "run --token t -y"),
        ("run -x --token t", "run -x --more", "run -x --token t --more"),
        ("env A=1 API_KEY=k srv", "env A=1 srv -v", "env A=1 API_KEY=k srv -v"),
        (["srv", "--db", "a://b:c@d", "-x"], ["srv", "--db", "-y"], ["srv", "--db", "a://b:c@d", "-y"]),
        ("run --token t -x", None, None),
        ("run --token t -x", "go --token=o", "go --token=o"),
        (["--api-key", "k", "-x"], [], ["--api-key", "k"]),
    ],
)
def test_a_command_that_is_edited_keeps_its_secrets_in_their_places(stored: Any, said: Any, both: Any) -> None:
    assert with_secrets_of(of(command=said, b=1), of(command=stored)) == of(command=both, b=1)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ("sh -c 'exec python3 tok.py --api-key=k serve'", "sh -c 'exec python3 tok.py serve --verbose'"),
        (["sh", "-c", "tok.py --api-key=k serve"], ["sh", "-c", "tok.py serve", "-v"]),
        ("run --token t -x", "go -x"),
        ("run run --token t -x", "run -x"),
        ("run --token t serve", "run run serve"),
        ("run --verbose --token t serve", "run --verbose 3 serve"),
        ("env API_KEY=k srv", "env -i srv"),
        ("run --password", "run positional"),
        ("run --token t -x", ["run", "-x", "-y"]),
        ("proxy --api-key a --up http://h --api-key b", "proxy --api-key n --up http://h"),
        (["-b", "r://:p@h/0", "-c", "r://:p@h/1"], ["-b", "r://:n@h/0", "-c"]),
        (["srv", {"HF_TOKEN": "o"}], ["srv", "-v"]),
        ("curl http://h/?a=1&token=X -s", "curl http://h/?a=1 -s -v"),
        ("proxy -a http://u:p@h/1 -b http://u:p@h/2", "proxy -a http://u:p@h/1 -b -x"),
        ("srv --db pg://u:p@h/x --api-key K", "srv --db pg://u:n@h/x"),
        (["run", "--token", "t"], "run -x"),
        ("run --token t --api-key k", "run --api-key o -x"),
        ({"API_KEY": "k", "A": "1"}, "A=2"),
        ("API_KEY=k A=1", {"A": "2"}),
    ],
)
def test_a_command_whose_secrets_have_no_sure_place_is_refused(stored: Any, said: Any) -> None:
    with pytest.raises(UsageError) as refused:
        with_secrets_of(of(command=said), of(command=stored))
    info = refused.value.info
    assert info.code == "bad-box"
    assert info.message == "service 'a': 'command' holds secrets and was changed"
    assert "write it whole" in info.why
    assert "gpumod service secret set a NAME" in info.why
    assert info.hint.startswith("`gpumod service edit a --set 'command=...'`")


@pytest.mark.parametrize(
    "text", ["'", '"', "\\", '\\"', "'\"", '"\\', "\\'\\\"", "(", "a=", "://a:", "--key ", "key: "]
)
def test_no_text_takes_long_to_be_read(text: str) -> None:
    began = process_time()
    for command in (text * 5000, text[1:] + text * 5000):
        split(command)
        split([command])
    assert process_time() - began < 1


def test_a_document_that_says_one_of_two_secrets_as_it_is_changes_nothing() -> None:
    """An older gpumod, which knew fewer, wrote it."""
    for stored, said in (
        (f"env HF_TOKEN=abcd proxy --api-key {KEY} --port 1", "env HF_TOKEN=abcd proxy --port 1"),
        (["env", "HF_TOKEN=abcd", "proxy", "--api-key", KEY], ["env", "HF_TOKEN=abcd", "proxy"]),
    ):
        assert with_secrets_of(of(command=said), of(command=stored)) == of(command=stored)
    with pytest.raises(UsageError):  # which is another edit
        with_secrets_of(of(command="env HF_TOKEN=new proxy"), of(command=f"env HF_TOKEN=abcd proxy --api-key {KEY}"))


@pytest.mark.parametrize("flag", ["-H", "--header"])
def test_a_header_without_a_blank_is_secret_behind_its_flag(flag: str) -> None:
    assert split(["curl", flag, f"X-Api-Key:{KEY}", "http://x"]) == (["curl", flag, "http://x"], [f"X-Api-Key:{KEY}"])
    assert split(["run", "my-token-server:latest"]) == (["run", "my-token-server:latest"], None)


def test_what_is_left_out_is_named() -> None:
    service = of(
        command="srv --api-key k sh -c 'API_KEY=k srv'",
        args=["--hf-token=x", "-y", "https://a:b@c"],
        env={"HF_TOKEN": "t", "A": "1"},
        password="p",  # it opens nothing
    )
    told = ("command: --api-key", "command: API_KEY", "args: --hf-token", "args: an address with a password")
    assert sorted(public(service)[1]) == sorted((*told, "env.HF_TOKEN", "password"))


def test_null_takes_a_variable_away_and_taken_away_it_stays() -> None:
    stored = of(env={"A": "1", "HF_TOKEN": "t"})
    said = of(env={"A": "1", "HF_TOKEN": None, "B": None})
    for before in (stored, None):
        both = with_secrets_of(said, before)
        assert both == of(env={"A": "1", "B": None})
        assert with_secrets_of(said, both) == both


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"env": {"HF_TOKEN": "-abcdefgh"}}, {"-abcdefgh"}),
        ({"env": {"HF_TOKEN": "-key-abcdefgh"}}, {"-key-abcdefgh"}),
        ({"env": {"HF_TOKEN": "c2VjcmV0=="}}, {"c2VjcmV0", "c2VjcmV0=="}),
        ({"env": {"PASSWORD": "a b c d"}}, {"a b c d"}),
        ({"command": "srv --api-key c2VjcmV0=="}, {"c2VjcmV0", "c2VjcmV0=="}),
        ({"command": ["--api-key=c2VjcmV0=="]}, {"c2VjcmV0", "c2VjcmV0=="}),
        ({"command": "srv --sas-token sv=2&spr=https&sig=abcd --port 1"}, {"sv=2&spr=https&sig=abcd"}),
        ({"command": "srv --api-key token:ab --password '$abc'"}, {"token:ab", "$abc"}),
        ({"api_keys": ["secret:abc"]}, {"secret:abc"}),
        ({"command": "srv --opts a=1,token=abcdefgh,b=2"}, {"abcdefgh"}),
        ({"command": "srv -H X-API-Key: abcdefgh --port 8080"}, {"abcdefgh"}),
        ({"command": "sh -c 'srv --api-key abcdefgh;exec b --port 1'"}, {"abcdefgh"}),
        ({"command": "serve --url http://u:abcdefgh@h/"}, {"abcdefgh", "http://u:abcdefgh@h/"}),
        ({"command": "srv --api-key=-abcdefgh"}, {"-abcdefgh"}),
        ({"command": "sh -c 'API_KEY=abcdefgh; srv'"}, {"abcdefgh"}),
        ({"command": "$(x --api-key abcdefgh)"}, {"abcdefgh"}),
        ({"command": ["--db", "a://me:abcdefgh@h/db"]}, {"abcdefgh", "a://me:abcdefgh@h/db"}),
        ({"command": ["--header=X-Api-Key:abcdefgh", "--name", "abc"]}, {"abcdefgh"}),
    ],
)
def test_words_that_hide_wherever_they_are_repeated(options: Any, words: set[str]) -> None:
    found = secret_values(of(**options))
    assert found >= words
    assert found.isdisjoint(("https", "exec", "--port", "--api-key", "--header", "--name", "API_KEY"))


def test_where_the_secret_is_that_has_no_place_is_told() -> None:
    with pytest.raises(UsageError) as refused:
        with_secrets_of(of(env={"ARGS": "run"}), of(env={"ARGS": "go --token t x"}))
    assert refused.value.info.message == "service 'a': 'env.ARGS' holds secrets and was changed"
    assert refused.value.info.hint.startswith("`gpumod service edit a --set 'env=...'`")


@pytest.mark.parametrize(
    ("options", "variable"),
    [
        ({"env": {"HF_TOKEN": "t"}}, "HF_TOKEN"),
        ({"env": {"ARGS": "--api-key k"}}, "NAME"),
        ({"env": ["A_KEY=k", "A=1"]}, "A_KEY"),
        ({"env": ["a.key=k", "A=1"]}, "NAME"),
        ({"password": "p"}, "NAME"),
    ],
)
def test_how_it_is_kept_apart_is_told(options: Any, variable: str) -> None:
    assert f"`gpumod service secret set a {variable}`" in told_of_secrets(of(**options))[0]


def test_no_secret_is_in_what_is_told_of_a_change() -> None:
    options = {"credentials": {"user": KEY}, "set": {"auth.key.main": KEY, "a.b": "c"}, "x": None}
    told = {one.field: one.new for one in fields_of(None, of(**options)) if one.field.startswith("unit_vars")}
    hidden = dict.fromkeys(("unit_vars.credentials", "unit_vars.set.auth.key.main"), "(secret)")
    assert told == {**hidden, "unit_vars.set.a.b": "c"}
