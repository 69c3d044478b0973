import dataclasses
import pickle
import random

import gymnasium
import pytest

from agentbench.dialogue.prompt import load_prompt
from agentbench.env import INFO_KEYS
from agentbench.envs.webshop.env import SPEC, WebShopEnv
from agentbench.envs.webshop.stock import market
from agentbench.errors import UnknownName
from agentbench.testing import check_env

MINI = ("mini-train", "mini-dev", "mini-test")


def start(task=None, **options):
    env = WebShopEnv(**options)
    observation, info = env.reset(seed=0, options={"task": task or market.tasks("mini-train")[0]})
    return env, observation, info


def test_the_env_keeps_every_promise_of_the_contract():
    report = check_env(dataclasses.replace(SPEC, splits=MINI), name="webshop")
    assert "oracle_midway" in report.passed
    assert report.skipped == {}


@pytest.mark.parametrize("observation", ["text", "text_rich"])
def test_the_originals_wordings_keep_the_contract_too(observation):
    # the prompt is written for the agent's wording, so it is not asked to show these
    check_env(dataclasses.replace(SPEC, splits=MINI), options={"observation": observation}, skip=["prompt"])


def test_it_is_a_gymnasium_env():
    env = gymnasium.make("agentbench/WebShop-v1", observation="text", disable_env_checker=True)
    observation, info = env.reset(seed=3)
    assert observation == f"WebShop [SEP] Instruction: [SEP] {info['instruction']} [SEP] Search"


def test_the_agent_reads_quoted_parts_without_the_instruction():
    env, observation, info = start()
    assert observation == "'Search'"
    assert info["admissible"] == ["search[<your query>]"]
    observation, *_, info = env.step("search[floor lamps]")
    assert observation.startswith("'Back to Search' [SEP] 'Page 1 (Total results: ")
    assert info["instruction"] not in observation
    assert info["admissible"][:2] == ["click[back to search]", "click[next >]"]
    assert set(INFO_KEYS) <= set(info)


def solve(env, limit=15):
    expert = SPEC.expert(env)
    for _ in range(limit):
        observation, reward, terminated, _, info = env.step(expert.act())
        if terminated:
            return observation, reward, info
    raise AssertionError(f"the expert did not buy within {limit} turns: {info}")


def test_only_a_perfect_purchase_is_paid():
    env, *_ = start()
    observation, reward, info = solve(env)
    assert (reward, info["success"], info["score"]) == (10.0, True, 1.0)
    assert observation.startswith("Thank you for shopping with us!")  # the last page is not quoted
    assert info["reward_parts"]["r_type"] == 1.0
    assert info["noun_test"]
    asin = info["bought"]["asin"]
    env.reset(seed=0, options={"task": market.tasks("mini-train")[0]})
    other = next(
        p.asin for p in map(env.session.shop.catalog.product, range(300)) if p.asin != asin and not p.options
    )
    env.step(f"search[{env.session.shop.catalog.product(env.session.shop.place(other)).title}]")
    env.step(f"click[{other}]")
    _, reward, terminated, _, info = env.step("click[buy now]")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert 0.0 <= info["score"] < 1.0
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("search[more]")


@pytest.mark.parametrize("split", MINI)
def test_the_expert_gets_everything_on_every_generated_goal(split):
    env = WebShopEnv()
    for task in market.tasks(split):
        env.reset(seed=0, options={"task": task})
        _, _, info = solve(env)
        assert info["score"] == 1.0, (task, info)


def test_the_decoy_buys_something_else_and_the_seed_says_what():
    task = market.tasks("mini-train")[3]
    bought = []
    for seed in (0, 0, 1, 2, 3):
        env, _, _ = start(task)
        decoy, over = SPEC.decoy(env, seed), False
        while not over:
            _, _, over, _, info = env.step(decoy.act())
        bought.append(info["bought"]["asin"])
    own = env.session.shop.catalog.product(env.session.goal.place).asin
    assert bought[0] == bought[1]
    assert own not in bought
    assert len(set(bought)) > 1


def test_the_expert_solves_human_goals_too():
    goals = market.goal_table("gen0", "human")
    env = WebShopEnv()
    for goal in goals:
        env.reset(seed=0, options={"task": market.task_id("gen0", "human", goal)})
        assert solve(env)[2]["score"] == 1.0


def test_on_official_goals_the_expert_loses_only_what_the_options_rule_takes(
    tmp_path, monkeypatch, recordings
):
    from agentbench.datasets import import_data
    from agentbench.envs.webshop.stock.dataset import DATASET

    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path))
    import_data(DATASET, recordings.parent)
    env = WebShopEnv(split="test")
    for task in [*market.tasks("test")[:150], *market.tasks("human")]:
        env.reset(seed=0, options={"task": task})
        parts = solve(env)[2]["reward_parts"]
        assert (parts["r_type"], parts["r_att"], parts["r_price"]) == (1.0, 1.0, True), task


# --- robustness ---


def command(rng, info):
    """A command of a shopper who has lost their mind."""
    kind = rng.random()
    if kind < 0.35 and info["admissible"]:
        return rng.choice(info["admissible"])
    if kind < 0.55:
        words = [
            "lamp",
            "<r>",
            "<c>",
            "<q>",
            "<a>",
            "garden",
            "search_results",
            "item_page",
            "the",
            "",
            "é",
            "★",
            "[x]",
        ]
        return f"search[{' '.join(rng.choices(words, k=rng.randint(0, 4)))}]"
    if kind < 0.75:
        names = [
            "< prev",
            "next >",
            "back to search",
            "description",
            "features",
            "reviews",
            "attributes",
            "search",
        ]
        return f"click[{rng.choice(names).swapcase()}]"
    if kind < 0.95:
        return "".join(
            rng.choices("search[]click <>\n\t\0 abc\u0130\u2028é★\U0001f4a1'\"\\{}%_", k=rng.randint(0, 30))
        )
    return rng.choice(["search[" + "word " * 500 + "]", "[" * 5000, "click[" + "]" * 5000, "x" * 10_000])


def test_20_000_random_actions_on_50_goals_never_raise_and_never_reach_another_episode():
    tasks = market.tasks("mini-train")[:50]
    rng = random.Random(0)
    env, quiet = WebShopEnv(show_attrs=True), WebShopEnv()
    quiet.reset(seed=0, options={"task": tasks[0]})
    quiet.step("search[coffee tables]")
    kept = quiet.snapshot(), quiet.render(), quiet.session.rich(), quiet.session.available()
    for task in tasks:
        _, info = env.reset(seed=1, options={"task": task})
        for _ in range(400):  # 50 goals times 400 actions
            observation, reward, terminated, truncated, info = env.step(command(rng, info))
            assert isinstance(observation, str)
            assert reward in (0.0, 10.0)
            assert not truncated
            assert "Page 0" not in observation or env.session.state.number == 0
            if terminated:
                _, info = env.reset(seed=1, options={"task": task})
    assert (quiet.snapshot(), quiet.render(), quiet.session.rich(), quiet.session.available()) == kept


def test_a_long_random_walk_is_the_same_twice_and_from_any_fork():
    task = market.tasks("mini-train")[7]
    rng = random.Random(5)
    env, _, info = start(task)
    actions, seen, states = [], [], []
    while len(actions) < 300:
        states.append(pickle.dumps(env.snapshot()))
        action = command(rng, info)
        if action == "click[buy now]":
            continue
        observation, *_, over, _, info = env.step(action)
        actions.append(action)
        seen.append((observation, info))
        assert not over
    states = states[-len(actions) :]
    again, *_ = start(task)
    assert [(moment[0], moment[-1]) for moment in map(again.step, actions)] == seen
    for turn in (0, 17, 150, 299):
        fork = WebShopEnv()
        fork.restore(pickle.loads(states[turn]))
        assert [(moment[0], moment[-1]) for moment in map(fork.step, actions[turn : turn + 20])] == seen[
            turn : turn + 20
        ]


def test_an_env_can_be_pickled_in_the_middle_of_an_episode():
    env, *_ = start()
    env.step("search[lamps]")
    copy = pickle.loads(pickle.dumps(env))
    assert copy.render() == env.render()
    assert copy.step("click[next >]") == env.step("click[next >]")
    assert len(pickle.dumps(env)) < 5000  # the shop is not inside


def test_unknown_choices_are_refused():
    with pytest.raises(UnknownName, match="text_rich"):
        WebShopEnv(observation="rich")
    with pytest.raises(UnknownName, match="mini-train"):
        WebShopEnv(split="mini")


# --- prompt ---


def slots(**changes):
    info = {"instruction": "Find me a lamp", "page": "results"}
    values = {
        "observation": "'Back to Search'",
        "admissible": ["click[back to search]"],
        "history": [],
        "turn": 1,
    }
    return {**values, "steps": 0, "max_turns": 15, "info": info, **changes}


def test_the_prompt_lists_the_dead_search_button_on_the_start_page_as_the_field_does():
    prompt = load_prompt(SPEC.prompt)
    info = {"instruction": "Find me a lamp", "page": "search"}
    text = prompt.message(slots(info=info, admissible=["search[<your query>]"]), first=True)
    assert "Find me a lamp" in text
    assert "search[<your query>]\nclick[search]\n" in text
    assert "click[search]" not in prompt.message(slots(), first=True)


def test_a_prompt_of_more_than_13000_characters_is_written_without_history():
    prompt = load_prompt(SPEC.prompt)
    history = [("'a page'", "search[a]"), ("'another'", "click[b]")]
    text = prompt.message(slots(history=history, turn=5, steps=4), first=False)
    assert "Page 3: 'a page'\nAction 3: search[a]\nPage 4: 'another'\nAction 4: click[b]" in text
    assert "You have taken 4 of at most 15 steps" in text
    long = prompt.message(slots(history=[("x" * 13_000, "search[a]")], turn=2, steps=1), first=False)
    assert "xxx" not in long
    assert "The page shows: 'Back to Search'" in long
