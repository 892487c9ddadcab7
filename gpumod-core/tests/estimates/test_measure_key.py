"""The key of measurements."""

from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.measure import LAUNCH_FIELDS, sample_key
from gpumod.domain.service import Service

SERVICE = Service(id="chat", driver="vllm", port=8000, vram_mb=7000, model_id="a/b", unit_vars={"x": 1, "y": [2, "z"]})
CARD = "NVIDIA GeForce RTX 4090"


def test_what_decides_the_launch_decides_the_key():
    changes = {
        "driver": "llamacpp",
        "model_id": "a/c",
        "model_path": "/models/a",
        "context_size": 4096,
        "vram_mb": 7001,
        "sleep_mode": "l1",
        "unit_template": "mine.j2",
        "unit_vars": {"x": 1, "y": [2, "w"]},
        "gpus": (0,),
        "host": "router",
        "run_with": "systemd",
    }
    assert set(changes) == set(LAUNCH_FIELDS)
    keys = {sample_key(SERVICE.model_copy(update={field: value}), [CARD]) for field, value in changes.items()}
    keys |= {
        sample_key(SERVICE, [CARD]),
        sample_key(SERVICE, [CARD, CARD]),
        sample_key(SERVICE, ["other"]),
        sample_key(SERVICE, []),
    }
    assert len(keys) == len(changes) + 4


def test_what_changes_nothing_changes_no_key():
    other = SERVICE.model_copy(
        update={
            "id": "chat2",
            "name": "Chat",
            "port": 9000,
            "role": "chat",
            "depends_on": ("embedding",),
            "startup_timeout": 5.0,
            "health_endpoint": "/up",
            "pinned": True,
            "asleep_mb": 5,
            "kv_cache_per_1k": 3.0,
            "start_peak_mb": 9000,
        }
    )
    assert sample_key(other, [CARD]) == sample_key(SERVICE, [CARD])
    assert sample_key(SERVICE, ["a", "b"]) == sample_key(SERVICE, ["b", "a"])


def test_the_key_is_the_same_in_every_version_of_gpumod():
    assert sample_key(SERVICE, [CARD]) == "747cb362061b6e88"


@given(
    st.dictionaries(
        st.text(alphabet="abcäé", max_size=4), st.integers() | st.booleans() | st.text(alphabet="xyü"), max_size=4
    )
)
def test_the_order_of_options_does_not_matter(options):
    one = SERVICE.model_copy(update={"unit_vars": options})
    two = SERVICE.model_copy(update={"unit_vars": dict(reversed(options.items()))})
    assert sample_key(one, [CARD]) == sample_key(two, [CARD])
    assert len(sample_key(one, [CARD])) == 16
