"""A driver's options: what it does not know it refuses, in words, and by ValueError alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.testing.suites.cases import DriverCase, asked
from gpumod.testing.suites.launching import accepted, launched
from gpumod.testing.suites.odd import JSON, TEXTS


class ReadingOptions:
    """Part of :class:`gpumod.testing.DriverSuite`."""

    def test_an_unknown_option_is_refused_by_name(self, case: DriverCase) -> None:
        for service in case.services:
            odd = service.model_copy(update={"unit_vars": {**service.unit_vars, "no_such_option": 1}})
            with pytest.raises(ValueError, match="no_such_option"):
                case.driver.check(odd)

    @asked
    @given(data=st.data())
    def test_whatever_options_hold_check_raises_value_error_alone(self, case: DriverCase, data: st.DataObject) -> None:
        service = data.draw(st.sampled_from(list(case.services)))
        options: dict[str, Any] = dict(service.unit_vars)
        names = st.sampled_from(sorted(options)) | TEXTS if options else TEXTS
        options[data.draw(names)] = data.draw(JSON)
        odd = service.model_copy(update={"unit_vars": options})
        if accepted(case, odd) and odd.host is None:
            case.driver.capabilities(odd)
            launched(case, odd)

    @pytest.mark.parametrize("field", ["port", "model_id", "model_path", "context_size"])
    def test_a_field_that_is_missing_is_refused_or_not_needed(self, case: DriverCase, field: str) -> None:
        for service in case.services:
            odd = service.model_copy(update={field: None})
            if accepted(case, odd) and odd.host is None:
                launched(case, odd)
