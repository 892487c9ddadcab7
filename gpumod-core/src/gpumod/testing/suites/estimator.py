"""What every VRAM estimator promises, as tests: subclass `EstimatorSuite` and give it a `case`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.errors import GpumodError
from gpumod.domain.footprint import Estimate, Source
from gpumod.domain.service import Service
from gpumod.ports import ModelInfo, VramEstimator
from gpumod.testing.suites.cases import TOTAL_MB, EstimatorCase, asked
from gpumod.testing.suites.odd import JSON, TEXTS

NUMBERS = ("vram_mb", "start_peak_mb", "asleep_mb", "ram_asleep_mb")


def estimate(case: EstimatorCase, service: Service, total_mb: int = TOTAL_MB) -> Estimate | None:
    return case.estimator.estimate(service, total_mb, None)


class EstimatorSuite:
    """Needs one fixture, `case`, that gives a :class:`gpumod.testing.EstimatorCase`."""

    def test_it_is_an_estimator(self, case: EstimatorCase) -> None:
        assert isinstance(case.estimator, VramEstimator)
        assert any(estimate(case, service) for service in case.services), "give a service that it estimates"

    @asked
    @given(total_mb=st.integers(256, 1_000_000))
    def test_estimates_are_pure_and_make_sense(self, case: EstimatorCase, total_mb: int) -> None:
        for service in case.services:
            found = estimate(case, service, total_mb)
            assert estimate(case, service, total_mb) == found
            if found is None:
                continue
            assert found.estimator == case.name
            assert found.source is not Source.MEASURED, "only gpumod measures"
            assert found.why, "say where the number comes from"
            given_mb = {name: getattr(found, name) for name in NUMBERS if getattr(found, name) is not None}
            assert given_mb, "an estimate of nothing is None"
            assert all(number >= 0 for number in given_mb.values())
            awake_mb = given_mb.get("vram_mb", 0)
            assert given_mb.get("start_peak_mb", awake_mb) >= awake_mb
            assert "vram_mb" not in given_mb or given_mb.get("asleep_mb", 0) <= awake_mb

    @asked
    @given(tokens=st.tuples(st.integers(1, 2_000_000), st.integers(1, 2_000_000)).map(sorted))
    def test_a_longer_context_takes_no_less(self, case: EstimatorCase, tokens: list[int]) -> None:
        for service in case.services:
            short, long = (estimate(case, service.model_copy(update={"context_size": count})) for count in tokens)
            if short and long and short.vram_mb is not None and long.vram_mb is not None:
                assert short.vram_mb <= long.vram_mb

    @asked
    @given(fields=st.dictionaries(TEXTS, JSON, max_size=4), data=st.data())
    def test_whatever_is_known_of_a_model_can_be_read(
        self, case: EstimatorCase, fields: dict[str, object], data: st.DataObject
    ) -> None:
        service = data.draw(st.sampled_from(list(case.services)))
        try:
            found = case.estimator.estimate(service, TOTAL_MB, ModelInfo(model="m", fields=fields))
        except GpumodError:
            return
        assert found is None or isinstance(found, Estimate)

    def test_a_service_that_it_does_not_know(self, case: EstimatorCase) -> None:
        try:
            found = estimate(case, Service(id="other", driver="no-such-driver"))
        except GpumodError as error:  # pragma: no cover - what a broken one does
            pytest.fail(f"None says that it does not apply, not {error.code}")
        assert found is None or isinstance(found, Estimate)
