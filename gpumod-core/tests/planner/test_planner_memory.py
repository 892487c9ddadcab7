"""Plans by example where memory is narrow: what is kept, foreign memory, several GPUs, host RAM."""

from __future__ import annotations

from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import GpuProcess
from gpumod.domain.plan import Lease, TargetMember, VerdictKind
from gpumod.domain.states import State
from gpumod.testing.examples import SERVICES, acts, asleep, machine, plan, reading, turns, want


def test_a_service_that_is_still_starting_counts_with_its_peak() -> None:
    found = machine(reading("glm-code", State.STARTING, 300, adopted=True))
    assert plan(found, want("chat")).exceeds_by_mb == 19100 + 7000 - 24052


def test_pinned_adopted_and_leased_services_are_kept_and_counted() -> None:
    pinned = SERVICES | {"chat": SERVICES["chat"].model_copy(update={"pinned": True})}
    found = machine(reading("chat", State.RUNNING, 7000), reading("reranker", State.RUNNING, 6000, adopted=True))
    lease = Lease(id="1", holder="a game", service="embedding")
    found = machine(*found.services.values(), reading("embedding", State.RUNNING, 4000))
    made = plan(found, want(), services=pinned, leases=(lease,))
    assert made.verdict is VerdictKind.NOTHING_TO_DO
    assert {row.id for row in made.services if row.wanted == "kept"} == {"chat", "reranker", "embedding"}
    assert "embedding stays up: held by a game" in made.notes
    assert plan(found, want("glm-code"), services=pinned, leases=(lease,)).verdict is VerdictKind.DOES_NOT_FIT


def test_what_a_pinned_service_needs_is_kept_too() -> None:
    pinned = SERVICES | {"hyde": SERVICES["hyde"].model_copy(update={"pinned": True})}
    found = machine(reading("embedding", State.RUNNING, 4000), reading("hyde", State.RUNNING, 5000))
    made = plan(found, want(), services=pinned)
    assert made.steps == ()
    assert "embedding stays up: hyde needs it" in made.notes


def test_leased_and_foreign_memory_lower_the_budget() -> None:
    made = plan(machine(foreign_mb=1000), want("glm-code"), leases=(Lease(id="1", holder="job", gpu=0, vram_mb=2000),))
    assert (made.gpus[0].budget_mb, made.gpus[0].foreign_mb) == (24564 - 512 - 1000 - 2000, 1000)
    assert made.fits


def test_memory_that_no_process_holds_is_not_said_to_be_of_processes() -> None:
    found = machine(foreign_mb=5000)
    game = GpuProcess(pid=7, name="game", gpu=0, vram_mb=2000)
    made = plan(found.model_copy(update={"processes": (game,)}), want("glm-code", "chat"))
    assert (made.gpus[0].foreign_mb, made.gpus[0].unattributed_mb) == (5000, 3000)
    assert "; other processes hold 2000 MiB; 3000 MiB are unattributed (no known process holds them)" in made.why
    assert "other processes" not in plan(found, want("glm-code", "chat")).why


def test_when_a_foreign_process_grew_releasing_fits_and_starting_does_not() -> None:
    found = machine(reading("glm-code", State.RUNNING, 19100), reading("tool", State.RUNNING, 100), foreign_mb=5000)
    assert found.gpus[0].used_mb > 24052
    assert plan(found, want("tool")).fits
    made = plan(found, want("tool", "glm-code", "embedding-code"))
    assert made.exceeds_by_mb == 19200 + 2500 - (24052 - 5000)


def test_who_starts_after_a_debt_waits_for_all_who_paid_it() -> None:
    found = machine(reading("chat", State.RUNNING, 7000), reading("reranker", State.RUNNING, 6000), foreign_mb=14000)
    made = plan(found, want("tool"))
    tool = next(step for step in made.steps if step.service == "tool")
    stops = {step.n for step in made.steps if step.action == "stop"}
    assert made.fits
    assert len(stops & set(tool.waits_for)) >= 1
    paid = sum(step.gives_mb[0] for step in made.steps if step.n in tool.waits_for)
    assert 13000 - paid + 100 <= made.gpus[0].budget_mb


def test_an_exclusive_start_runs_alone_on_its_gpu() -> None:
    foot = Footprint(service="chat", vram_mb=7000, start_peak_mb=7000, exclusive_start=True, start_s=100)
    made = plan(machine(), want("chat", "tool", "embedding"), footprints={"chat": foot})
    chat = next(step for step in made.steps if step.service == "chat")
    assert chat.exclusive
    for step in made.steps:
        if step.service in ("tool", "embedding"):
            assert chat.n in step.waits_for or step.n in chat.waits_for


def test_two_gpus_first_fit_and_spanning() -> None:
    span = SERVICES | {"chat": SERVICES["chat"].model_copy(update={"gpus": (0, 1)})}
    made = plan(machine(totals=(24564, 24564)), want("glm-code", "reranker", "chat"), services=span)
    placed = {step.service: step.placed_on for step in made.steps if step.action == "start"}
    assert placed == {"glm-code": (0,), "reranker": (1,), "chat": (0, 1)}
    assert [gpu.after_mb for gpu in made.gpus] == [22600, 9500]
    fixed = plan(machine(totals=(24564, 24564)), want(TargetMember(service="tool", gpus=(1,))))
    assert fixed.steps[0].placed_on == (1,)


def test_a_service_moves_when_the_target_says_where() -> None:
    found = machine(reading("chat", State.RUNNING, 7000), totals=(24564, 24564))
    made = plan(found, want(TargetMember(service="chat", gpus=(1,))))
    assert acts(made)[:2] == [("stop", "chat"), ("start", "chat")]
    assert made.steps[0].why == "moves to GPU 1"
    assert [gpu.after_mb for gpu in made.gpus] == [0, 7000]


def test_without_host_ram_a_sleeper_is_stopped_and_numbers_say_why() -> None:
    foot = Footprint(service="chat", vram_mb=7000, start_peak_mb=7000, asleep_mb=800, ram_asleep_mb=7000)
    found = machine(reading("chat", State.RUNNING, 7000), ram_mb=5000)
    made = plan(found, want(asleep("chat")), footprints={"chat": foot})
    assert acts(made)[0] == ("stop", "chat")
    assert "7000 MiB of host RAM" in made.notes[0]
    assert "3976 MiB" in made.notes[0]
    enough = plan(machine(reading("chat", State.RUNNING, 7000)), want(asleep("chat")), footprints={"chat": foot})
    assert acts(enough)[0] == ("sleep", "chat")
    assert enough.steps[0].ram is not None
    assert (enough.steps[0].ram.before_mb, enough.steps[0].ram.peak_mb, enough.steps[0].ram.after_mb) == (0, 7000, 7000)
    assert enough.ram_peak_mb == 7000


def test_the_budget_of_host_ram_is_told_as_no_more_than_there_is() -> None:
    foot = Footprint(service="chat", vram_mb=7000, start_peak_mb=7000, asleep_mb=800, ram_asleep_mb=7000)
    asleep_now = machine(reading("chat", State.SLEEPING, 800, sleep_level=SERVICES["chat"].sleep_level), ram_mb=64_000)
    made = plan(asleep_now, want(asleep("chat"), "tool"), footprints={"chat": foot})
    assert made.fits
    assert (made.ram_peak_mb, made.ram_budget_mb) == (7000, 64_000 - 1024)


def test_a_narrow_way_restarts_what_stands_in_it() -> None:
    feet = {"reranker": Footprint(service="reranker", vram_mb=6000, start_peak_mb=20000)}
    made = plan(machine(reading("chat", State.RUNNING, 7000)), want("chat", "reranker"), footprints=feet)
    assert made.fits
    assert acts(made)[:3] == [("stop", "chat"), ("start", "reranker"), ("start", "chat")]
    assert made.gpus[0].peak_mb <= made.gpus[0].budget_mb
    assert "chat restarts" in made.notes[0]


def test_what_restarts_holds_until_then_what_it_was_started_with() -> None:
    code = SERVICES["glm-code"]
    weak = code.with_context(11_264)
    up = reading("glm-code", State.RUNNING, weak.vram_mb).model_copy(update={"launched": weak})
    found = machine(up, reading("reranker", State.RUNNING, 6000))
    made = plan(found, want("glm-code").model_copy(update={"restart": ("glm-code",)}), footprints={})
    assert made.fits
    assert made.gpus[0].before_mb == found.gpus[0].used_mb == weak.vram_mb + 6000
    assert made.gpus[0].peak_mb <= made.gpus[0].budget_mb


def test_who_has_a_turn_is_up_while_others_start_beside_it() -> None:
    """It counts as at rest when the next one has a turn, and as awake until then."""
    cold = {"x": SERVICES["chat"].model_copy(update={"id": "x", "port": 9, "vram_mb": 5000, "start_peak_mb": 15000})}
    services = SERVICES | cold
    held = tuple(Lease(id=name, holder="ann", service=name) for name in ("hyde", "reranker"))
    up = machine(reading("hyde", State.RUNNING, 5000), reading("reranker", State.RUNNING, 6000), totals=(24564, 24564))
    made = plan(up, want("x", *turns("hyde", "reranker")), services=services, leases=held)
    (start,) = (step for step in made.steps if step.service == "x")
    assert (made.fits, start.placed_on) == (True, (1,))
