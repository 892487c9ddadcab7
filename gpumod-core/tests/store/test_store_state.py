"""What is put into the store comes out of it, and every change leaves its event."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumod.adapters.store import SqlStore, open_store
from gpumod.adapters.store.records import KEPT_SAMPLES, MEDIAN_OF
from gpumod.domain.errors import ErrorInfo, Failed, HalfWay, UnknownName
from gpumod.domain.footprint import Source
from gpumod.domain.machine import GpuReading, ServiceReading
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.plan import Alternative, AlternativeKind, Changes, Plan, PlanService, Step, Target, VerdictKind
from gpumod.domain.run import Event, Handle, Run, RunStatus, RunStep, Sample, StepStatus
from gpumod.domain.service import Service
from gpumod.domain.states import Action, State
from gpumod.ports import Simulation, Store

EVENT = Event(at=1.5, kind="test", subject="it", data={"n": 1})
CHAT = Service(id="chat", driver="llamacpp", host="router", vram_mb=7000, unit_vars={"extra_args": ["-b", "1", "ü'%"]})
ROUTER = Service(id="router", driver="llamacpp", port=7800, gpus=(0, 1), unit_vars={"router": True})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with open_store(tmp_path / "home" / "gpumod.db") as opened:
        yield opened


def plan(*steps: Step, alternatives: tuple[str, ...] = ()) -> Plan:
    return Plan(
        id="p1",
        target=Target(mode="rag"),
        verdict=VerdictKind.FITS,
        steps=steps,
        services=(PlanService(id="chat", wanted="awake", vram_mb=7000, source=Source.MEASURED),),
        alternatives=tuple(
            Alternative(
                id=name, kind=AlternativeKind.CONTEXT, title="less", verdict=VerdictKind.FITS, peak_mb=1,
                changes=Changes(context_size={"chat": 2048}),
            )
            for name in alternatives
        ),
    )  # fmt: skip


def step(n: int, action: Action = Action.START) -> Step:
    return Step(n=n, action=action, service="chat", why="wanted", takes_mb={0: 10}, placed_on=(0,))


def run(name: str = "r1", status: RunStatus = RunStatus.RUNNING, *steps: RunStep) -> Run:
    return Run(
        id=name, command="switch rag", holder="me", status=status, target=Target(mode="rag"), plan=plan(step(1)),
        before={"chat": ServiceReading(service="chat", state=State.SLEEPING, vram_mb={0: 600}, launched=CHAT)},
        definitions={"chat": CHAT}, mode_before="code", started_at=10.0, steps=steps,
    )  # fmt: skip


def test_it_is_a_store(store: SqlStore) -> None:
    as_port: Store = store
    assert as_port.services() == {}
    assert store.writable
    assert store.path.name == "gpumod.db"


def test_services_come_back_in_order_and_equal(store: SqlStore) -> None:
    store.put_service(ROUTER, event=EVENT)
    store.put_service(CHAT, event=EVENT, user_edited=("vram_mb", "port", "vram_mb"))
    assert list(store.services().items()) == [("chat", CHAT), ("router", ROUTER)]
    assert store.user_edited("chat") == {"vram_mb", "port"}
    assert store.user_edited("router") == store.user_edited("nobody") == frozenset()
    changed = CHAT.model_copy(update={"vram_mb": 1, "host": None})
    store.put_service(changed, event=EVENT)
    assert store.services()["chat"] == changed
    assert store.user_edited("chat") == frozenset()
    assert store.problems() == ()


def test_a_deleted_service_is_gone_and_an_unknown_one_is_named(store: SqlStore) -> None:
    store.put_service(CHAT, event=EVENT)
    with pytest.raises(UnknownName) as caught:
        store.delete_service("chta", event=EVENT)
    assert caught.value.code == "unknown-service"
    assert "chat" in caught.value.info.hint
    assert len(store.events(9)) == 1
    store.delete_service("chat", event=EVENT)
    assert store.services() == {}
    assert len(store.events(9)) == 2


def test_a_service_of_a_mode_is_not_deleted(store: SqlStore) -> None:
    store.put_service(CHAT, event=EVENT)
    store.put_mode(Mode(id="rag", members=(ModeMember(service="chat"),)), event=EVENT)
    with pytest.raises(Failed) as caught:
        store.delete_service("chat", event=EVENT)
    assert caught.value.code == "service-in-use"
    assert "rag" in caught.value.info.message
    assert "chat" in store.services()


def test_modes_keep_members_in_order(store: SqlStore) -> None:
    members = (
        ModeMember(service="b", want=Want.TIME_SHARED, start_order=3),
        ModeMember(service="a", want=Want.ASLEEP),
        ModeMember(service="not-defined"),
    )
    mode = Mode(id="rag", name="R [bold]", description="é", members=members)
    store.put_mode(mode, event=EVENT, user_edited=True)
    assert store.modes() == {"rag": mode}
    assert store.mode_user_edited("rag")
    assert not store.mode_user_edited("nope")
    fewer = Mode(id="rag", members=members[1:2])
    store.put_mode(fewer, event=EVENT)
    assert store.modes() == {"rag": fewer}
    assert not store.mode_user_edited("rag")
    store.delete_mode("rag", event=EVENT)
    assert store.modes() == {}
    with pytest.raises(UnknownName, match="no mode 'rag'"):
        store.delete_mode("rag", event=EVENT)


def test_settings(store: SqlStore) -> None:
    store.put_setting("reserve_mb", "700", event=EVENT)
    store.put_setting("reserve_mb", "800", event=EVENT)
    assert store.settings() == {"reserve_mb": "800"}
    store.put_setting("reserve_mb", None, event=EVENT)
    store.put_setting("never_set", None, event=EVENT)
    assert store.settings() == {}


def test_handles(store: SqlStore) -> None:
    handle = Handle(
        service="chat", supervisor="process", nonce="abc", token={"pid": 7, "start": 1.25}, launched=CHAT, gpus=(1,),
        started_at=3.5,
    )  # fmt: skip
    store.put_handle(handle.model_copy(update={"token": {}}), event=EVENT)
    store.put_handle(handle, event=EVENT)
    assert store.handles() == {"chat": handle}
    store.delete_handle("chat", event=EVENT)
    assert store.handles() == {}
    with pytest.raises(UnknownName):
        store.delete_handle("chat", event=EVENT)


def test_a_run_is_journalled_and_closed_in_one_transaction_with_its_mode(store: SqlStore) -> None:
    opened = run("r1", RunStatus.RUNNING, RunStep(n=1, step=step(1)))
    store.add_run(opened)
    assert store.open_run() == store.run("r1") == opened
    done = RunStep(n=1, step=step(1), status=StepStatus.DONE, started_at=11.0, seconds=2.0, detail="ok")
    store.update_step("r1", done)
    back = RunStep(n=1, phase="rollback", step=step(1, Action.STOP), status=StepStatus.PENDING)
    store.add_steps("r1", [back])
    assert store.run("r1").steps == (done, back)
    assert store.events(1)[0] == Event(
        at=13.0, kind="step-done", subject="chat", data={"run": "r1", "phase": "apply", "n": 1, "action": "start"}
    )
    ended = opened.model_copy(update={"status": RunStatus.DONE, "ended_at": 20.0})
    store.finish_run(ended, mode="rag", set_mode=True)
    assert store.open_run() is None
    assert store.current_mode() == "rag"
    assert store.run("r1") == ended.model_copy(update={"steps": (done, back)})
    assert [event.kind for event in store.events(2)] == ["run-finished", "mode-changed"]


def test_only_one_run_is_open_and_half_way_is_open(store: SqlStore) -> None:
    store.add_run(run("r1"))
    with pytest.raises(HalfWay) as caught:
        store.add_run(run("r2"))
    assert caught.value.code == "run-open"
    store.add_run(run("r3", RunStatus.NOTHING_TO_DO))
    error = ErrorInfo(code="killed", message="it died", details={"pid": 3})
    half = run("r1", RunStatus.HALF_WAY).model_copy(update={"error": error})
    store.finish_run(half, mode=None, set_mode=False)
    assert store.open_run() == half
    store.finish_run(half.model_copy(update={"status": RunStatus.ROLLED_BACK}), mode=None, set_mode=False)
    assert store.open_run() is None
    store.add_run(run("r2"))
    assert [found.id for found in store.runs(10)] == ["r2", "r3", "r1"]
    assert len(store.runs(1)) == 1


def test_the_last_error_of_a_service_is_that_of_its_last_step(store: SqlStore) -> None:
    error = ErrorInfo(code="port-taken", message="port 7800 is taken")
    failed = RunStep(n=1, step=step(1), status=StepStatus.FAILED, error=error)
    store.add_run(run("r1", RunStatus.FAILED, failed))
    assert store.last_errors() == {"chat": "port 7800 is taken"}
    store.add_run(run("r2", RunStatus.RUNNING, RunStep(n=1, step=step(1), status=StepStatus.PENDING)))
    assert store.last_errors() == {"chat": "port 7800 is taken"}
    for code in ("interrupted", "cut-off"):  # no fault of the service
        cut = ErrorInfo(code=code, message=code)
        store.update_step("r2", RunStep(n=1, step=step(1), status=StepStatus.FAILED, error=cut))
        assert store.last_errors() == {"chat": "port 7800 is taken"}
    store.update_step("r2", RunStep(n=1, step=step(1), status=StepStatus.DONE))
    assert store.last_errors() == {}
    with closing(sqlite3.connect(store.path)) as raw:
        raw.execute("UPDATE run_steps SET definition = '{' WHERE run_id = 'r2'")
        raw.execute("UPDATE run_steps SET error = 'edited' WHERE run_id = 'r1'")
        raw.commit()
    assert store.last_errors() == {"chat": "edited"}


def test_what_is_not_there_is_an_unknown_name(store: SqlStore) -> None:
    for call in (
        lambda: store.run("r9"),
        lambda: store.finish_run(run("r9"), mode=None, set_mode=False),
        lambda: store.update_step("r9", RunStep(n=1, step=step(1))),
        lambda: store.add_steps("r9", [RunStep(n=1, step=step(1))]),
    ):
        with pytest.raises(UnknownName):
            call()


def test_the_previous_mode_is_the_one_before(store: SqlStore) -> None:
    seen = []
    for n, mode in enumerate(["code", "rag", "rag", None, "blank"]):
        finished = run(f"r{n}", RunStatus.DONE)
        store.add_run(finished)
        store.finish_run(finished, mode=mode, set_mode=True)
        seen.append((store.current_mode(), store.previous_mode()))
    assert seen == [("code", None), ("rag", "code"), ("rag", "code"), (None, "rag"), ("blank", "rag")]
    assert store.settings() == {}
    store.put_mode(Mode(id="rag"), event=EVENT)
    store.delete_mode("rag", event=EVENT)
    assert (store.current_mode(), store.previous_mode()) == ("blank", None)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(1, 1e5), min_size=1, max_size=30), st.sampled_from(["settled_mb", "peak_mb", "start_s"]))
def test_samples_are_summed_up(tmp_path: Path, values: list[float], kind: str) -> None:
    with open_store(tmp_path / "gpumod.db") as store:
        key = f"k{len(store.samples())}"
        for at, value in enumerate(values):
            store.add_samples([Sample(service="s", key=key, at=at, kind=kind, value=value)])
        expected = {"settled_mb": values[-1], "peak_mb": max(values), "start_s": median(values[-MEDIAN_OF:])}
        assert store.samples()["s", key] == {kind: expected[kind]}
    with closing(sqlite3.connect(tmp_path / "gpumod.db")) as raw:
        (kept,) = raw.execute("SELECT count(*) FROM vram_samples WHERE key = ?", (key,)).fetchone()
    assert kept <= KEPT_SAMPLES


def test_simulations_are_kept_and_found_by_their_alternatives(store: SqlStore) -> None:
    first = Simulation(id="s1", at=1.0, base={"mode": "rag"}, plan=plan(step(1), alternatives=("aa", "b_")))
    second = Simulation(id="s2", at=2.0, base={"services": ["a"]}, plan=plan(alternatives=("aa",)))
    store.add_simulation(first)
    store.add_simulation(second)
    assert store.simulations(5) == (second, first)
    assert store.simulation_with("aa") == second
    assert store.simulation_with("b_") == first
    assert store.simulation_with("bx") is store.simulation_with("a") is store.simulation_with('"') is None


def test_gpu_profiles_are_those_of_the_last_look(store: SqlStore) -> None:
    card = GpuReading(index=0, name="RTX 4090", total_mb=24564, used_mb=1, free_mb=2)
    store.put_gpu_profiles([card, card.model_copy(update={"index": 1})])
    store.put_gpu_profiles([card])
    with closing(sqlite3.connect(store.path)) as raw:
        assert raw.execute("SELECT gpu_index, name, total_mb FROM gpu_profiles").fetchall() == [(0, "RTX 4090", 24564)]


@pytest.mark.parametrize(
    ("change", "table", "row", "field"),
    [
        ("UPDATE services SET port = 99999 WHERE id = 'router'", "services", "router", "port"),
        ("UPDATE services SET port = 'x' WHERE id = 'router'", "services", "router", "port"),
        ("UPDATE services SET driver = '../x' WHERE id = 'router'", "services", "router", "driver"),
        ("UPDATE services SET definition = '{' WHERE id = 'router'", "services", "router", "definition"),
        ("UPDATE services SET definition = '[]' WHERE id = 'router'", "services", "router", "definition"),
        ("UPDATE services SET definition = '{\"pinned\": 7}' WHERE id = 'router'", "services", "router", "pinned"),
        ("UPDATE services SET id = 'a' || char(10) || 'b' WHERE id = 'router'", "services", "a\nb", "id"),
        ("UPDATE mode_services SET want = 'dancing'", "modes", "rag", "members.0.want"),
        ("UPDATE mode_services SET position = 5, service_id = 'x y'", "modes", "rag", "members.0.service"),
    ],
)
def test_a_row_edited_by_hand_is_named_and_hides_no_other(
    store: SqlStore, change: str, table: str, row: str, field: str
) -> None:
    store.put_service(ROUTER, event=EVENT)
    store.put_service(CHAT, event=EVENT)
    store.put_mode(Mode(id="rag", members=(ModeMember(service="chat"),)), event=EVENT)
    store.put_mode(Mode(id="blank"), event=EVENT)
    with closing(sqlite3.connect(store.path)) as raw:
        raw.execute(change)
        raw.commit()
    assert "chat" in store.services()
    assert "blank" in store.modes()
    assert len(store.services()) + len(store.modes()) == 3
    (problem,) = store.problems()
    assert problem.code == "bad-row"
    assert (problem.details["table"], problem.details["row"], problem.details["field"]) == (table, row, field)
    assert "gpumod" in problem.hint
    if row == "router":
        store.put_service(ROUTER, event=EVENT)
        assert store.problems() == ()
        store.delete_service("router", event=EVENT)


def test_a_broken_journal_row_is_never_passed_over_when_it_is_open(store: SqlStore) -> None:
    store.add_run(run("r0", RunStatus.DONE))
    store.add_run(run("r1"))
    with closing(sqlite3.connect(store.path)) as raw:
        raw.execute("UPDATE runs SET definition = json_remove(definition, '$.plan') WHERE id = 'r1'")
        raw.execute("UPDATE events SET data = 'x' WHERE seq = 1")
        raw.commit()
    with pytest.raises(Failed) as caught:
        store.open_run()
    assert caught.value.info.details == {"table": "runs", "row": "r1", "field": "plan"}
    assert [found.id for found in store.runs(9)] == ["r0"]
    assert len(store.events(9)) == 1


def test_nothing_is_written_when_a_part_fails(store: SqlStore) -> None:
    store.add_run(run("r1"))
    before = store.events(99)
    with pytest.raises(Failed):
        store.add_steps("r1", [RunStep(n=1, step=step(1)), RunStep(n=1, step=step(1))])
    assert store.run("r1").steps == ()
    assert store.events(99) == before


texts = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), max_size=20)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        Service,
        id=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z"),
        name=texts,
        driver=st.sampled_from(["vllm", "fastapi"]),
        port=st.none() | st.integers(1, 65535),
        vram_mb=st.integers(0, 10**6),
        model_id=st.none() | texts,
        unit_vars=st.dictionaries(
            texts, st.none() | st.booleans() | st.integers() | texts | st.lists(texts), max_size=3
        ),
        gpus=st.just("any") | st.lists(st.integers(0, 255), min_size=1, max_size=3, unique=True).map(tuple),
        startup_timeout=st.floats(0.1, 1000),
    )
)
def test_any_service_comes_back_as_it_went_in(tmp_path: Path, service: Service) -> None:
    with open_store(tmp_path / "gpumod.db") as store:
        store.put_service(service, event=EVENT)
        assert store.services()[service.id] == service


def test_events_are_the_newest_first(store: SqlStore) -> None:
    for n in range(5):
        store.put_setting("a", str(n), event=Event(at=n, kind="set", subject="a", data={"to": n, "x": [1, None]}))
    assert [event.data["to"] for event in store.events(3)] == [4, 3, 2]
    assert json.loads(store.events(1)[0].model_dump_json())["data"] == {"to": 4, "x": [1, None]}
