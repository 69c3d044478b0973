import datetime
from typing import Any

import pytest
import yaml
from pydantic import Field

from agentbench.config import Section, differences, dump, validate
from agentbench.engines.settings import check_numbers
from agentbench.errors import ConfigError, UsageError
from agentbench.evaluation.evaluate import EvalConfig
from agentbench.retrieval.client import ClientRetriever
from agentbench.training.config import EnvConfig, RolloutConfig, TrainConfig, read_config

BASE = {
    "algorithm": "opd",
    "output_dir": "out",
    "model_name_or_path": "m",
    "env": {"name": "corridor", "split": "train"},
}


def write(tmp_path, values):
    path = tmp_path / "run.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_overrides_reach_nested_keys_and_lists(tmp_path):
    values = BASE | {"teachers": [{"model_name_or_path": "t"}]}
    overrides = [
        "seed=3",
        "env.options.engine=native",
        "teachers.0.dtype=float32",
        "bf16=true",
        "learning_rate=1.0e-3",
    ]
    config = read_config(write(tmp_path, values), overrides)
    assert (config.seed, config.bf16, config.learning_rate) == (3, True, 1e-3)
    assert config.env.options == {"engine": "native"}
    assert config.teachers[0].dtype == "float32"


def test_resolved_config_is_itself_a_valid_input(tmp_path):
    config = read_config(write(tmp_path, BASE))
    assert read_config(write(tmp_path, dump(config))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rat": 1}, r"unknown key 'learning_rat'.*Did you mean 'learning_rate'"),
        ({"rollout": {"engin": "hf"}}, r"unknown key 'rollout\.engin'.*Did you mean 'engine'"),
        ({"teachers": [{"model": "x"}]}, r"teachers\.0\.model"),
        ({"env": {"name": "corridor"}}, r"env\.split' is missing"),
        ({"max_steps": 0}, r"max_steps = 0 is not allowed: .*greater than or equal to 1"),
        ({"lr_scheduler_type": "cosin"}, r"lr_scheduler_type = 'cosin' is not allowed.*'cosine'"),
    ],
)
def test_bad_keys_and_values_get_one_line(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        validate(TrainConfig, BASE | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML"), ("- 1", "must hold keys and values, found list")]
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path, text))


def test_missing_file_and_bad_overrides(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*No such file"):
        read_config(tmp_path / "absent.yaml")
    path = write(tmp_path, BASE)
    with pytest.raises(ConfigError, match=r"not of the form key\.sub=value"):
        read_config(path, ["seed"])
    with pytest.raises(ConfigError, match="'name' is a value"):
        read_config(path, ["env.name.sub=1"])


def test_differences_are_named_by_dotted_key():
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert list(differences(old, new)) == ["a.c: 2 -> 4", "d: 3 -> None", "e: None -> 5"]


class Numbers(Section):
    """Every way in which a section holds numbers."""

    one: float | None = None
    row: tuple[int, ...] = ()
    list_: list[int] | None = None
    named: dict[str, float] = Field(default_factory=dict)
    mixed: dict[str, Any] = Field(default_factory=dict)
    words: dict[str, str] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"one": True}, "one = True is not allowed: a number is wanted"),
        ({"row": [1, True]}, "row.1 = True is not allowed: a number is wanted"),
        ({"row": ["5"]}, "row.0 = '5' is not allowed: a whole number is wanted"),
        ({"row": [2**63]}, "row.0 = 9223372036854775808 is not allowed: it does not fit into 64 bits"),
        ({"list_": [False]}, "list_.0 = False is not allowed: a number is wanted"),
        ({"named": {"a": True}}, "named.a = True is not allowed: a number is wanted"),
    ],
)
def test_a_yes_is_no_number_inside_lists_and_mappings_either(values, message):
    with pytest.raises(ConfigError) as caught:
        validate(Numbers, values)
    assert message in str(caught.value)


def test_numbers_and_other_values_pass():
    values = {
        "one": 1,
        "row": [1, 2],
        "list_": [3],
        "named": {"a": 1},
        "mixed": {"a": True},
        "words": {"a": "5"},
    }
    assert validate(Numbers, values).mixed == {"a": True}


@pytest.mark.parametrize("key", ["step_seconds", "episode_seconds"])
@pytest.mark.parametrize("value", [1e308, 10**30, 1e9 + 1, 0, float("nan"), True])
def test_time_limits_that_no_clock_takes_are_refused(key, value):
    # 1e308 seconds was an OverflowError of every episode
    with pytest.raises(ConfigError, match=key):
        validate(EvalConfig, {"panel": "corridor/test@1", "policy": "random", key: value})
    with pytest.raises(ConfigError, match=key):
        validate(RolloutConfig, {key: value})
    assert getattr(validate(RolloutConfig, {key: 1e9}), key) == 1e9


@pytest.mark.parametrize("value", [1e308, 0, float("inf")])
def test_so_are_those_of_clients(value):
    with pytest.raises(UsageError, match="at most 1e\\+09"):
        check_numbers(value, 0, 1, None, None)
    with pytest.raises(UsageError, match="at most 1e\\+09"):
        ClientRetriever("http://127.0.0.1:9", timeout=value)


DEEP = []
for _ in range(300):
    DEEP = [DEEP]
UNWRITABLE = {
    "bytes": b"\xff\x00",
    "set": {1},
    "deep": DEEP,
    "nan": float("nan"),
    "inf": float("inf"),
    "huge": 2**63,
    "surrogate": "\ud83d",
    "inside": [{"x": b"\x00"}],
}
PLACES = {
    "rollout.template_options": lambda value: (RolloutConfig, {"template_options": {"a": value}}),
    "rollout.engine_options": lambda value: (RolloutConfig, {"engine_options": {"a": value}}),
    "env.options": lambda value: (EnvConfig, {"name": "x", "split": "y", "options": {"a": value}}),
    "env.prompt": lambda value: (EnvConfig, {"name": "x", "split": "y", "prompt": {"a": value}}),
    "trainer": lambda value: (TrainConfig, BASE | {"trainer": {"a": value}}),
    "eval.env_options": lambda value: (
        EvalConfig,
        {"panel": "p", "policy": "random", "env_options": {"a": value}},
    ),
}


@pytest.mark.parametrize("value", UNWRITABLE.values(), ids=UNWRITABLE)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_cannot_be_written_down_is_refused_in_every_free_mapping(place, value):
    model, values = place(value)
    with pytest.raises(
        ConfigError, match=r"\.a.* (= .* is not allowed|is nested more than 50 deep)"
    ) as caught:
        validate(model, values)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_can_be_written_down_passes_and_comes_back(place):
    model, values = place([1, 2.5, None, True, "x", {"y": [2]}, datetime.date(2026, 1, 1)])
    found = validate(model, values)
    assert "2026-01-01" in dump(found)
