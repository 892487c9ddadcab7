"""What every source of model information promises, as tests: subclass `ModelInfoSourceSuite` and give it a `case`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpumod.domain.errors import GpumodError
from gpumod.domain.service import Service
from gpumod.ports import ModelInfo, ModelInfoSource
from gpumod.testing.suites.cases import ModelInfoCase

JUNK = (b"", b"\0" * 64, b"GGUF", b"GGUF\3\0\0\0" + b"\xff" * 16, b"{", b'{"a": NaN}', b"[" * 5000)
"""What may lie where a model should be."""


class ModelInfoSourceSuite:
    """Needs one fixture, `case`, that gives a :class:`gpumod.testing.ModelInfoCase`."""

    def test_it_is_a_source(self, case: ModelInfoCase) -> None:
        assert isinstance(case.source, ModelInfoSource)
        known = [case.source.info(service, case.settings) for service in case.services]
        assert any(known), "give a service whose model it knows"

    def test_what_it_tells_is_plain_data(self, case: ModelInfoCase) -> None:
        for service in case.services:
            found = case.source.info(service, case.settings)
            assert case.source.info(service, case.settings) == found
            if found is not None:
                assert isinstance(found, ModelInfo)
                json.dumps(dict(found.fields))
                assert set(found.provenance) <= set(found.fields)

    def test_a_model_that_is_not_there(self, case: ModelInfoCase, tmp_path: Path) -> None:
        driver = case.services[0].driver
        for fields in ({}, {"model_id": "no/such"}, {"model_path": str(tmp_path / "gone")}, {"model_path": "relative"}):
            look(case, Service.model_validate({"id": "s", "driver": driver, **fields}))

    @pytest.mark.parametrize("name", ["model.gguf", "config.json", "a b $HOME;.gguf"])
    def test_junk_where_the_model_should_be(self, case: ModelInfoCase, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        for junk in JUNK:
            file.write_bytes(junk)
            for path in (file, tmp_path):
                look(case, Service(id="s", driver=case.services[0].driver, model_path=str(path)))


def look(case: ModelInfoCase, service: Service) -> None:
    """An answer, None, or an error in words: nothing else."""
    try:
        found = case.source.info(service, case.settings)
    except GpumodError:
        return
    assert found is None or isinstance(found, ModelInfo)
