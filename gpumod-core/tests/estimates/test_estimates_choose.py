"""The chooser: measured beats explicit beats estimated beats declared, and says why."""

import math

from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.estimates import choose
from gpumod.domain.footprint import Estimate, Source
from gpumod.domain.service import Service


def service(**fields: object) -> Service:
    return Service.model_validate({"id": "glm-code", "driver": "vllm", "vram_mb": 19100, **fields})


EXPLICIT = Estimate(estimator="vllm", source=Source.EXPLICIT, vram_mb=22107, why="gpu_memory_utilization 0.9 of 24564")
ESTIMATED = Estimate(estimator="gguf", vram_mb=18200)


def test_declared_alone():
    footprint = choose(service())
    assert (footprint.vram_mb, footprint.start_peak_mb, footprint.source) == (19100, 19100, Source.DECLARED)
    assert footprint.why == "declared 19100 MiB"


def test_measured_wins_and_the_losers_are_kept_in_words():
    footprint = choose(service(), [ESTIMATED, EXPLICIT], {"settled_mb": 18949.2, "start_s": 31.5})
    assert (footprint.vram_mb, footprint.source) == (18950, Source.MEASURED)
    assert footprint.why == (
        "measured 18950 MiB (on this card); explicit 22107 MiB (vllm: gpu_memory_utilization 0.9 of 24564); "
        "estimated 18200 MiB (gguf); declared 19100 MiB"
    )
    assert (footprint.start_s, footprint.sources["start_s"]) == (31.5, Source.MEASURED)
    assert footprint.stop_s is None
    assert "stop_s" not in footprint.sources


def test_an_explicit_option_beats_whatever_is_declared():
    assert choose(service(vram_mb=100), [ESTIMATED, EXPLICIT]).vram_mb == 22107
    assert choose(service(vram_mb=100), [ESTIMATED, EXPLICIT]).source is Source.EXPLICIT


def test_an_estimate_beats_a_declared_number():
    assert choose(service(), [ESTIMATED]).vram_mb == 18200


def test_the_largest_of_equal_rank():
    assert choose(service(), [ESTIMATED, Estimate(estimator="other", vram_mb=18300)]).vram_mb == 18300


def test_a_negative_estimate_is_no_answer():
    assert choose(service(), [Estimate(estimator="odd", vram_mb=-1)]).source is Source.DECLARED


def test_measuring_nothing_is_no_measurement():
    for settled in (0.0, 63.0, 900.0):
        footprint = choose(service(), [], {"settled_mb": settled, "peak_mb": settled, "start_s": 2.0})
        assert (footprint.vram_mb, footprint.source, footprint.start_s) == (19100, Source.DECLARED, None)
        assert f"a measurement of {settled:.0f} MiB where 19100 were expected is ignored" in footprint.why
    assert choose(service(vram_mb=600), [], {"settled_mb": 63}).vram_mb == 600
    assert choose(service(vram_mb=600), [], {"settled_mb": 64}).vram_mb == 64
    assert choose(service(vram_mb=500), [], {"settled_mb": 26}).vram_mb == 26


def test_little_is_a_measurement_where_little_or_nothing_was_expected():
    assert choose(service(vram_mb=0), [], {"settled_mb": 12}).vram_mb == 12
    assert choose(service(vram_mb=0), [Estimate(estimator="e", vram_mb=9000)], {"settled_mb": 12}).vram_mb == 9000
    assert choose(service(vram_mb=100), [EXPLICIT], {"settled_mb": 90}).vram_mb == 22107


def test_the_peak():
    assert choose(service(start_peak_mb=21000)).start_peak_mb == 21000
    footprint = choose(service(start_peak_mb=21000), [], {"settled_mb": 18950, "peak_mb": 22000})
    assert (footprint.start_peak_mb, footprint.sources["start_peak_mb"]) == (22000, Source.MEASURED)
    assert "while starting: measured 22000 MiB (on this card); declared 21000 MiB" in footprint.why
    assert choose(service(), [], {"settled_mb": 18950, "peak_mb": 19000}).start_peak_mb == 19000
    over = choose(service(start_peak_mb=21000), [EXPLICIT])
    assert (over.start_peak_mb, over.sources["start_peak_mb"]) == (22107, Source.EXPLICIT)


def test_a_peak_that_was_seen_may_only_raise():
    estimated = Estimate(estimator="e", start_peak_mb=20500)
    footprint = choose(service(start_peak_mb=21000), [estimated], {"settled_mb": 18950, "peak_mb": 20000})
    assert (footprint.start_peak_mb, footprint.sources["start_peak_mb"]) == (20500, Source.ESTIMATED)
    assert "while starting: estimated 20500 MiB (e); measured 20000 MiB (on this card); declared" in footprint.why


def test_who_sleeps_by_stopping_keeps_nothing():
    footprint = choose(service(asleep_mb=900), [], {"asleep_mb": 800}, sleep_residue_mb=700, sleep_ram_mb=600)
    assert (footprint.asleep_mb, footprint.ram_asleep_mb) == (0, 0)


def test_the_residue_asleep():
    sleeper = service(sleep_mode="l1", asleep_mb=900)
    assert choose(sleeper).asleep_mb == 900
    predicted = choose(sleeper, sleep_residue_mb=1100, sleep_ram_mb=15000)
    assert (predicted.asleep_mb, predicted.ram_asleep_mb) == (1100, 15000)
    assert predicted.sources["asleep_mb"] is Source.ESTIMATED
    measured = choose(sleeper, [], {"asleep_mb": 1010.5}, sleep_residue_mb=1100)
    assert (measured.asleep_mb, measured.sources["asleep_mb"]) == (1011, Source.MEASURED)
    assert choose(sleeper, [Estimate(estimator="e", asleep_mb=1200)], sleep_residue_mb=1100).asleep_mb == 1200
    assert choose(sleeper, sleep_residue_mb=99999).asleep_mb == 19100


def test_an_unknown_residue_is_all_of_it():
    footprint = choose(service(sleep_mode="l1"))
    assert footprint.asleep_mb == 19100
    assert "what it keeps asleep at l1 is not known" in footprint.why


def test_a_member_of_a_host_and_a_host_without_memory_of_its_own():
    assert choose(service(vram_mb=0)).vram_mb == 0
    member = service(host="router", sleep_mode="router", vram_mb=4000)
    assert choose(member, sleep_residue_mb=0).asleep_mb == 0


numbers = st.none() | st.integers(-10, 50_000)
estimates = st.lists(
    st.builds(
        Estimate,
        estimator=st.sampled_from(["a", "b"]),
        source=st.sampled_from([Source.EXPLICIT, Source.ESTIMATED]),
        vram_mb=numbers,
        start_peak_mb=numbers,
        asleep_mb=numbers,
        ram_asleep_mb=numbers,
    ),
    max_size=4,
)
kinds = ["settled_mb", "peak_mb", "asleep_mb", "start_s", "stop_s", "sleep_s", "wake_s"]
samples = st.none() | st.dictionaries(
    st.sampled_from(kinds), st.floats(-10, 50_000) | st.just(math.nan) | st.just(math.inf)
)


services = st.builds(
    lambda vram, more, level: service(
        vram_mb=vram, start_peak_mb=None if more is None else vram + more, sleep_mode=level
    ),
    st.integers(0, 40_000),
    st.none() | st.integers(0, 5000),
    st.sampled_from(["none", "l1"]),
)


@given(services, estimates, samples, numbers)
def test_any_numbers_give_a_consistent_footprint(definition, estimates, samples, residue):
    footprint = choose(definition, estimates, samples, sleep_residue_mb=residue, exclusive_start=True)
    assert 0 <= footprint.asleep_mb <= footprint.vram_mb <= footprint.start_peak_mb
    assert footprint.ram_asleep_mb >= 0
    assert footprint.exclusive_start
    assert footprint.why.startswith(f"{footprint.source} {footprint.vram_mb} MiB")
    explicit = [
        e.vram_mb for e in estimates if e.source is Source.EXPLICIT and e.vram_mb is not None and e.vram_mb >= 0
    ]
    if explicit and footprint.source is not Source.MEASURED:
        assert footprint.vram_mb == max(explicit)


@given(services, estimates, samples)
def test_the_order_of_the_estimators_does_not_matter(definition, estimates, samples):
    one, two = (choose(definition, order, samples) for order in (estimates, estimates[::-1]))
    assert one.model_dump(exclude={"why"}) == two.model_dump(exclude={"why"})
