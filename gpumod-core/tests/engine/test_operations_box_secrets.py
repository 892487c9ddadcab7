"""What becomes of secrets when a document is edited and applied: kept in their places, refused, or told to be lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.secrets import SecretFiles
from gpumod.adapters.settings import check_setting
from gpumod.bootstrap import preset_tools
from gpumod.domain.errors import UsageError
from gpumod.domain.service import Service
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ApplyParams, DiffParams, NoParams
from gpumod.operations.secrets import told_of_lost_secrets
from gpumod.plugins.offers import DriverOffer
from gpumod.ports import Capabilities
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import WorldDriver, world_service

KEY = "hunter2"
SERVE = f"python3 tok.py --api-key {KEY} serve --port 1"
SHELL = f"sh -c 'exec python3 tok.py --api-key={KEY} serve --port 1'"


class OpenDriver(WorldDriver):
    name = "open"

    def check(self, service: Service) -> None:
        """Any option will do."""

    def capabilities(self, service: Service) -> Capabilities:
        return super().capabilities(service.model_copy(update={"unit_vars": {}}))


@pytest.fixture
def box(make_box: Any) -> Any:
    box = make_box(8000)
    box.offers = (DriverOffer(name="open", summary="takes any option", factory=OpenDriver),)
    return box


def define(box: Any, **unit_vars: Any) -> str:
    """Define `web` with these options; the document that this makes."""
    box.define(world_service("web", 300, 9001).model_copy(update={"driver": "open", "unit_vars": unit_vars}))
    return str(ask(box, "export", NoParams()).yaml)


def ask(box: Any, operation: str, params: Any) -> Any:
    tools = bare_tools(presets=preset_tools, check_setting=check_setting)
    return box.world.clock.run(getattr(Gpumod(box.machine(), tools), operation)(params))


def apply(box: Any, text: str, **more: Any) -> Any:
    return ask(box, "apply", ApplyParams(text=text, source="box.yaml", **more))


def command(box: Any) -> Any:
    return box.store.services()["web"].unit_vars["command"]


def test_an_edited_command_has_its_key_where_it_was(box: Any) -> None:
    text = define(box, command=SERVE)
    assert KEY not in text
    apply(box, text.replace("--port 1", "--port 1 --verbose"))
    assert command(box) == f"{SERVE} --verbose"


@pytest.mark.parametrize("held", [SHELL, ["sh", "-c", SHELL[7:-1]]])
def test_a_command_with_a_key_in_its_quotes_is_not_edited(box: Any, held: Any) -> None:
    text = define(box, command=held)
    assert KEY not in text
    assert apply(box, text).changes == ()
    changed = text.replace("--port 1", "--port 1 --verbose")
    for operation, more in (("apply", {}), ("apply", {"now": True}), ("diff", {})):
        params = (ApplyParams if operation == "apply" else DiffParams)(text=changed, source="box.yaml", **more)
        with pytest.raises(UsageError) as refused:
            ask(box, operation, params)
        info = refused.value.info
        assert info.code == "bad-box"
        assert "service 'web': 'command' holds secrets and was changed" in info.why
        assert "write it whole" in info.why
        assert "gpumod service edit web" in info.hint
        assert KEY not in info.model_dump_json()
    assert command(box) == held


def test_what_a_diff_shows_in_place_of_a_key_is_no_key(box: Any) -> None:
    text = define(box, command=SERVE)
    with pytest.raises(UsageError) as refused:
        apply(box, text.replace("--port 1", "--port 1 --api-key (secret)"))
    assert "an option of service 'web' is (secret)" in refused.value.info.why
    assert command(box) == SERVE


def test_what_is_left_out_says_which_flags(box: Any) -> None:
    define(box, command=f"env PGPASSWORD={KEY} {SERVE} --no-auth --token-limit 4096", env=f"A=1 API_KEY={KEY}")
    told = ask(box, "export", NoParams())
    assert "env python3 tok.py serve --port 1 --no-auth --token-limit 4096" in told.yaml
    assert told.left_out == ("service web: command: --api-key, command: PGPASSWORD, env: API_KEY (a secret)",)


def test_secrets_that_go_with_a_service_are_told(box: Any) -> None:
    text = define(box, command=SERVE)
    box.world.secrets["web"] = {"HF_TOKEN": KEY}
    renamed = text.replace("id: web", "id: page").replace("9001", "9002")
    assert ask(box, "diff", DiffParams(text=renamed, source="box.yaml")).notes == ()
    told = ("web's secrets HF_TOKEN, command: --api-key go with it",)
    assert ask(box, "diff", DiffParams(text=renamed, source="box.yaml", prune=True)).notes == told
    assert apply(box, renamed, prune=True, dry_run=True).notes == told
    assert apply(box, renamed, prune=True).notes == told
    assert box.world.secrets.get("web") is None
    assert apply(box, "version: 1", prune=True).notes == ()  # page had none


def test_secrets_that_cannot_be_read_are_told_too(tmp_path: Path) -> None:
    kept = SecretFiles(tmp_path)
    kept.put("web", "HF_TOKEN", KEY)
    (tmp_path / "secrets" / "web.json").chmod(0o644)
    (told,) = told_of_lost_secrets(world_service("web", 300, 9001), kept)
    assert told == "web's secrets in a file that cannot be used: others can read it (its mode is 644); go with it"
