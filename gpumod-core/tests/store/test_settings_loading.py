"""Settings: the environment over the database over the defaults, and errors that say where a wrong one stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.adapters.settings import check_setting, environment_name, load_settings, variables_set
from gpumod.domain.errors import UnknownName, UsageError
from gpumod.domain.settings import Settings


def test_without_anything_they_are_the_defaults() -> None:
    assert load_settings({}, {}) == Settings()


def test_the_environment_wins_over_the_database() -> None:
    stored = {"reserve_mb": "700", "ram_reserve_mb": "5", "gone_in_this_version": "x"}
    settings = load_settings(stored, {"GPUMOD_RESERVE_MB": "800", "GPUMOD_HOME": "/x", "GPUMOD_LOG_MAX_MB": ""})
    assert (settings.reserve_mb, settings.ram_reserve_mb, settings.log_max_mb) == (800, 5, 16)


def test_an_empty_variable_is_not_set() -> None:
    environ = {"GPUMOD_GPU_PROBE": "", "GPUMOD_RESERVE_MB": " ", "GPUMOD_LOG_MAX_MB": "3"}
    assert load_settings({"gpu_probe": "sim", "reserve_mb": "7"}, environ) == Settings(
        gpu_probe="sim", reserve_mb=7, log_max_mb=3
    )
    assert variables_set(environ) == {"log_max_mb": "GPUMOD_LOG_MAX_MB"}
    assert load_settings({"gpu_probe": ""}, {}).gpu_probe is None


@pytest.mark.parametrize(
    ("stored", "environ", "where", "mend"),
    [
        ({"reserve_mb": "many"}, {}, "database", "gpumod settings set reserve_mb"),
        ({}, {"GPUMOD_RESERVE_MB": "-1"}, "GPUMOD_RESERVE_MB", "unset GPUMOD_RESERVE_MB"),
    ],
)
def test_a_wrong_one_is_named_with_its_place_and_what_mends_it(
    stored: dict[str, str], environ: dict[str, str], where: str, mend: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(stored, environ)
    assert caught.value.code == "bad-setting"
    assert "reserve_mb" in caught.value.info.message
    assert where in caught.value.info.message
    assert mend in caught.value.info.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reserve_mb", "1.5"), ("reserve_mb", ""), ("release_timeout_s", "0"), ("supervisor", "../x"),
        ("bind_host", "example.org"), ("bind_host", "::1"), ("bind_host", "192.168.1.2"), ("bind_host", "127.0.0.01"),
        ("vllm_bin", "a\nb"), ("models_dir", "a\x1bb"), ("log_max_mb", "nan"),
        ("vllm_bin", " "), ("user", "a b"), ("user", "1a"), ("user", "-a"), ("user", "%u"), ("user", "a" * 32),
    ],
)  # fmt: skip
def test_bad_values_are_refused(key: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_setting(key, value)
    assert caught.value.code == "bad-setting"


@pytest.mark.parametrize("value", ["nan", "-NaN"])
def test_what_is_no_number_is_not_told_of_limits(value: str) -> None:
    floats = [key for key, field in Settings.model_fields.items() if isinstance(field.default, float)]
    assert "restart_window_s" in floats
    for key in floats:
        with pytest.raises(UsageError) as caught:
            check_setting(key, value)
        assert caught.value.info.why == "must be a number"
    with pytest.raises(UsageError) as caught:
        check_setting("restart_window_s", "inf")
    assert caught.value.info.why == "must be at most 2592000"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_services_bind_to_this_machine_or_to_all_addresses(address: str) -> None:
    assert check_setting("bind_host", address) == address
    with pytest.raises(UsageError) as caught:
        check_setting("bind_host", "10.0.0.1")
    assert "0.0.0.0, which opens every service" in caught.value.info.why


def test_an_unknown_one_is_named_with_what_is_close() -> None:
    with pytest.raises(UnknownName) as caught:
        check_setting("reserv_mb", "1")
    assert caught.value.code == "unknown-setting"
    assert "reserve_mb" in caught.value.info.hint


def test_paths_are_expanded_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    assert check_setting("models_dir", "~/m") == "/home/me/m"
    assert check_setting("bin_path", "~") == "/home/me"
    assert check_setting("hf_home", "here") == str(tmp_path / "here")
    assert check_setting("vllm_bin", "vllm") == "vllm"
    assert check_setting("vllm_bin", "~/bin/vllm") == "/home/me/bin/vllm"
    assert check_setting("models_dir", "") == ""
    assert load_settings({}, {"GPUMOD_MODELS_DIR": "~/m"}).models_dir == "/home/me/m"


@given(st.sampled_from(list(Settings.model_fields)), st.text() | st.integers().map(str) | st.floats().map(str))
def test_what_is_accepted_loads(key: str, value: str) -> None:
    try:
        stored = check_setting(key, value)
    except UsageError:
        return
    settings = load_settings({key: stored}, {})
    assert load_settings({}, {environment_name(key): stored}) == settings
