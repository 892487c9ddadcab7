"""Settings as they are stored and as they are in force: what the environment decides, what is no simulated machine."""

from __future__ import annotations


def test_a_setting_that_the_environment_overrides_is_stored_and_that_is_said(home):
    env = {"GPUMOD_RESERVE_MB": "800"}
    row = home.ask("settings", "set", "reserve_mb", "600", code=0, env=env).json
    assert (row["value"], row["source"], row["stored"]) == ("800", "environment", "600")
    assert "GPUMOD_RESERVE_MB in the environment wins over the stored '600'" in row["note"]
    assert "GPUMOD_RESERVE_MB in the environment wins" in home.say("settings", "get", "reserve_mb", env=env).stdout
    row = home.ask("settings", "get", "reserve_mb").json
    assert (row["value"], row["source"], row["stored"], row["note"]) == ("600", "database", "600", "")


def test_an_empty_variable_is_not_set(home):
    home.ask("settings", "set", "reserve_mb", "600", code=0)
    rows = home.ask("settings", "list", env={"GPUMOD_RESERVE_MB": "", "GPUMOD_SIM_MACHINE": ""}).json["settings"]
    found = {row["key"]: (row["value"], row["source"]) for row in rows}
    assert found["reserve_mb"] == ("600", "database")
    assert found["sim_machine"] == (str(home.path / "sim"), "database")
    home.ask("status", code=0, env={"GPUMOD_SIM_MACHINE": ""})


def test_a_folder_without_a_simulated_machine_is_refused(home):
    refused = home.ask("settings", "set", "sim_machine", "/nope", code=2).error
    assert (refused["code"], refused["why"]) == ("bad-setting", "there is no simulated machine in /nope")
    home.ask("settings", "set", "sim_machine", str(home.path / "sim"), code=0)
    assert home.ask("settings", "get", "sim_machine").json["value"] == str(home.path / "sim")
