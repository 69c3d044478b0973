"""The stand-in for WebShop's own class: recordings of both copies, and what loops do besides."""

import random
import subprocess
import sys

import numpy as np
import pytest
from places import SHARED_DATA

from agentbench.bridges import find_bridge
from agentbench.envs.webshop import bridge, side_by_side
from agentbench.envs.webshop.bridge import WebAgentTextEnv
from agentbench.envs.webshop.sim_server import ORIGINAL_SHUFFLE, SimServer
from agentbench.errors import MissingData, UnknownName, UsageError

DATA = SHARED_DATA / "webshop"


@pytest.fixture
def files(tmp_path_factory):
    """The generator's shop in the official format: 60 products."""
    from agentbench.envs.webshop.stock.generate import write_files

    folder = tmp_path_factory.mktemp("shop")
    write_files(folder, 60, 0)
    return folder


@pytest.fixture
def make(files):
    def made(**changes):
        given = {"observation_mode": "text", "file_path": files / "items_shuffle_1000.json", **changes}
        return WebAgentTextEnv(nouns="letters", **given)

    return made


@pytest.fixture(autouse=True)
def names_given_back():
    yield
    bridge.give_names_back()


# --- beside the recordings ---


def test_recordings_of_both_copies_play_again_without_a_difference():
    if not (DATA / "oracle-sample" / "traces.jsonl").is_file():
        pytest.skip(f"the recordings of the original are not at {DATA}")
    report = side_by_side.check([str(DATA / "oracle-sample"), str(DATA)])
    assert report.differences == []
    # 10 episodes with 88 steps, 2 x 10 goals; of each step five values and more
    assert (report.counts["episodes"], report.counts["steps"], report.counts["goals"]) == (10, 88, 20)
    assert report.counts["values"] > 600
    assert report.notes == []  # every reset by itself came to the recorded session and goal


def test_a_difference_is_seen(monkeypatch):
    if not (DATA / "oracle-sample" / "traces.jsonl").is_file():
        pytest.skip(f"the recordings of the original are not at {DATA}")
    monkeypatch.setattr("agentbench.envs.webshop.sim_server.ORIGINAL_SHUFFLE", 234)
    report = side_by_side.check([str(DATA / "oracle-sample"), str(DATA)], limit=1)
    assert any(line.startswith("goal 0 asin") for line in report.differences)


def test_the_check_says_what_it_needs(tmp_path):
    with pytest.raises(UsageError, match="name a folder of its recordings"):
        side_by_side.check()
    with pytest.raises(MissingData, match="no recordings in"):
        side_by_side.check([str(tmp_path)])


# --- goals and sessions ---


def test_without_a_seed_the_shop_draws_from_the_random_state_as_it_is_and_shuffles_with_233(make):
    goals = []
    for seed in (5, 5, 6):
        random.seed(seed)
        goals.append(make().server.goals)
    assert goals[0] == goals[1]
    assert [goal["asin"] for goal in goals[0]] == [goal["asin"] for goal in goals[2]]
    assert ORIGINAL_SHUFFLE == 233


def test_with_a_seed_everything_follows_from_it(make):
    random.seed(1)
    first = make(seed=9)
    drawn = random.random(), np.random.random()
    random.seed(2)
    second = make(seed=9)
    assert (random.random(), np.random.random()) == drawn
    assert second.server.goals == first.server.goals
    assert second.session == first.session
    assert [g["asin"] for g in make(seed=10).server.goals] != [g["asin"] for g in first.server.goals]


def test_a_goal_has_the_keys_of_the_original(make):
    env = make()
    goal = env.server.goals[0]
    assert list(goal) == [
        "asin", "category", "query", "name", "product_category", "instruction_text", "attributes", "price_upper",
        "goal_options", "weight",
    ]  # fmt: skip
    assert type(goal["attributes"]) is list
    assert type(goal["goal_options"]) is dict
    human = make(human_goals=True).server.goals
    assert all(type(goal["goal_options"]) is list and goal["weight"] == 1 for goal in human)


def goal_of(env):
    return env.server.goals.index(env.server.user_sessions[env.session]["goal"])


def test_an_int_picks_a_goal_and_a_name_keeps_it(make):
    env = make()
    assert env.reset(session=3) == (env.observation, None)
    assert (env.session, goal_of(env)) == ("3", 3)
    random.seed(0)
    env.reset(session="shopper")
    drawn = goal_of(env)
    for _ in range(3):
        env.reset(session="shopper")
        assert goal_of(env) == drawn
    env.reset(session="3")
    assert goal_of(env) == 3
    env.reset(session=np.int64(4))  # no Python int: a name like any other, whose goal is drawn
    state = random.getstate()
    random.setstate(state)
    assert env.session == "4"
    env.reset(session=-1)
    assert goal_of(env) == len(env.server.goals) - 1
    with pytest.raises(UsageError, match="this shop has"):
        env.reset(session=10**6)


def test_a_prefix_and_a_shared_shop(make):
    env = make(session_prefix="a-")
    env.reset(session=2)
    other = make(server=env.server)
    assert other.server is env.server
    other.reset(session="a-2")
    assert goal_of(other) == 2


def test_goals_can_be_chosen(make):
    everything = make().server.goals
    kept = make(filter_goals=lambda index, goal: index % 2 == 1).server
    assert [goal["asin"] for goal in kept.goals] == [goal["asin"] for goal in everything[1::2]]
    assert len(kept.cum_weights) == len(kept.goals) + 1


def test_an_assigned_instruction_takes_the_goals_place(make):
    env = make()
    env.server.assigned_instruction_text = "Buy anything."
    env.reset(session=1)
    assert env.instruction_text == "Instruction: Buy anything."
    assert env.server.goals[1]["instruction_text"] == "Buy anything."
    assert " [SEP] Buy anything. [SEP] " in env.observation


def test_an_instruction_given_to_reset_changes_the_attribute_alone(make):
    env = make()
    observation, _ = env.reset(session=1, instruction_text="something else")
    assert env.instruction_text == env.state["instruction_text"] == "something else"
    assert env.server.goals[1]["instruction_text"] in observation


# --- playing ---


def bought(env, session=0):
    """Buy the first product that is found; returns what the last step gave."""
    env.reset(session=session)
    env.step(f"search[{env.server.goals[session]['query']}]")
    link = next(name for name in env.get_available_actions()["clickables"] if name.startswith("b0"))
    env.step(f"click[{link}]")
    return env.step("click[Buy Now]")


def test_rewards_are_floats_and_the_integer_0_where_nothing_happened(make):
    env = make()
    env.reset(session=0)
    for action in ("nonsense", "click[buy now]", "search[]", ""):
        _, reward, done, info = env.step(action)
        assert (reward, type(reward), done, info) == (0, int, False, None)
    _, reward, done, info = env.step("search[lamp]")
    assert (reward, type(reward), done, info) == (0.0, float, False, None)
    observation, reward, done, _ = bought(env)
    assert done
    assert type(reward) is float
    assert observation.startswith("Thank you for shopping with us!")


def test_after_a_purchase_the_original_stays_and_verl_agents_copy_starts_over(make):
    stays = make()
    bought(stays)
    assert stays.observation.startswith("Thank you")
    assert stays.get_available_actions()["clickables"] == []
    assert stays.step("click[buy now]")[1:3] == (0, False)
    assert stays.get_instruction_text() == ""

    starts_over = make(seed=4)
    observation, _, done, _ = bought(starts_over)
    assert done
    assert observation.startswith("Thank you")
    assert starts_over.get_available_actions() == {"has_search_bar": True, "clickables": ["search"]}
    assert starts_over.session != "0"
    assert len(starts_over.session) == 10


def test_a_sessions_record_follows_the_shopper(make):
    env = make()
    env.reset(session=0)
    record = env.server.user_sessions["0"]
    assert (record["keywords"], record["page"], record["asins"], record["done"]) == (None, None, set(), False)
    query = env.server.goals[0]["query"]
    env.step(f"search[{query}]")
    assert (record["keywords"], record["page"], record["asin"]) == (query.split(" "), 1, None)
    link = next(name for name in env.get_available_actions()["clickables"] if name.startswith("b0"))
    env.step(f"click[{link}]")
    env.step("click[Description]")
    env.step("click[< Prev]")
    assert (record["asin"], record["asins"]) == (link.upper(), {link.upper()})
    env.step("click[Buy Now]")
    assert dict(record["actions"]) == {"search": 1, "asin": 1, "Description": 1, "purchase": 1}
    assert (record["done"], record["reward"]) == (True, record["reward"])
    assert "r_type" in record["verbose_info"]


def test_earlier_pages_and_actions_are_put_before(make):
    env = make(num_prev_obs=1, num_prev_actions=1)
    first, _ = env.reset(session=0)
    shown = env.step("search[lamp]")[0]
    assert shown == f"{first} [SEP] search[lamp] [SEP] {env.observation}"


def test_modes(make):
    env = make(observation_mode="url")
    assert env.reset(session=7)[0] == "http://127.0.0.1:3000/7"
    env.observation_mode = "text_rich"
    assert env.observation.startswith("WebShop\nInstruction: \n")
    assert env.state == {
        "url": "http://127.0.0.1:3000/7",
        "html": "",
        "instruction_text": env.instruction_text,
    }


def test_random_queries_draw_from_the_random_state(make):
    env = make()
    env.reset(session=0)
    pages = []
    for seed in (1, 1, 2):
        random.seed(seed)
        pages.append(env.step("search[<r>]")[0])
    assert pages[0] == pages[1] != pages[2]
    asins = env.server.stock.catalog.columns["asin"]
    random.seed(1)
    wanted = [asins[place].lower() for place in random.sample(range(60), 50)[:10]]
    random.seed(1)
    env.step("search[<r>]")
    assert [name for name in env.get_available_actions()["clickables"] if name.startswith("b0")] == wanted


def test_fewer_products(make, files):
    env = make(num_products=20)
    assert len(env.server.stock.catalog) == 20
    assert set(env.server.product_prices) == set(make().server.stock.catalog.columns["asin"][:20])


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_mode": "html"}, "makes no HTML; pass one of text, text_rich, url"),
        ({"get_image": 1}, "no images"),
        ({"limit_goals": 5}, "limit_goals=5 is not supported"),
        ({"seed": 1, "goal_seed": 2}, "goal_seed=2 apart from seed=1"),
        ({"file_path": "somewhere/items_shuffle_1000.json"}, "agentbench data import webshop"),
    ],
)
def test_refusals_say_what_to_do(make, changes, message, monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=message):
        make(**changes)


def test_an_unknown_mode_suggests_the_nearest(make):
    with pytest.raises(UnknownName, match="Did you mean 'text_rich'"):
        make(observation_mode="text_ritch")


# --- under the original's names ---


def test_the_names_of_the_original_are_taken_and_given_back(files):
    bridge.take_names()
    from web_agent_site.envs import WebAgentTextEnv as original
    from web_agent_site.envs.web_agent_text_env import SimServer as server
    from webshop_minimal import WebAgentTextEnv as minimal
    from webshop_minimal import init_basedir

    assert original is minimal is WebAgentTextEnv
    assert server is SimServer
    init_basedir(str(files))
    from webshop_minimal.utils import DEFAULT_FILE_PATH

    assert files / "items_shuffle_1000.json" == type(files)(DEFAULT_FILE_PATH)
    bridge.take_names()
    bridge.give_names_back()
    assert "web_agent_site" not in sys.modules
    sys.modules["webshop_minimal"] = type(sys)("webshop_minimal")
    try:
        with pytest.raises(UsageError, match="'webshop_minimal' was imported before"):
            bridge.take_names()
    finally:
        del sys.modules["webshop_minimal"]


def test_it_can_be_subclassed_as_ragen_does(make, files):
    class Base:
        def __init__(self):
            self.ready = True

    class Shopper(Base, WebAgentTextEnv):
        def __init__(self):
            self.observation_mode, self.server = "text", None
            Base.__init__(self)
            given = {"file_path": files / "items_shuffle_1000.json", "server": None, "limit_goals": -1}
            WebAgentTextEnv.__init__(
                self, observation_mode="text", filter_goals=None, human_goals=False, **given
            )

        def reset(self, seed=None, session=None, instruction_text=None):
            return WebAgentTextEnv.reset(self, session=session, instruction_text=instruction_text)[0]

        def get_available_actions(self):
            return [f"click[{name}]" for name in WebAgentTextEnv.get_available_actions(self)["clickables"]]

        def step(self, action):
            observation, reward, done, _ = WebAgentTextEnv.step(self, action)
            return observation, reward, done, {}

    env = Shopper()
    env.reset(session=5)
    assert env.step("search[lamp]")[1:] == (0.0, False, {})
    assert env.get_available_actions()[0] == "click[back to search]"


GYM = """
import {gym} as gym, sys
import agentbench.envs.webshop.bridge
env = gym.make("WebAgentTextEnv-v0", observation_mode="text", file_path=sys.argv[1], seed=0)
goal = env.server.goals[1]
print(env.reset(session=1)[1], env.step("search[lamp]")[1:], goal == env.server.user_sessions["1"]["goal"])
"""


@pytest.mark.parametrize("gym", ["gymnasium", "gym"])
def test_old_and_new_gym_make_it(files, gym):
    if gym == "gym":
        pytest.importorskip("importlib.util").find_spec("gym") or pytest.skip("the old gym is not installed")
    words = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        GYM.format(gym=gym),
        str(files / "items_shuffle_1000.json"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "None (0.0, False, None) True"


def test_it_is_a_plug_in(monkeypatch):
    found = find_bridge("webshop")
    monkeypatch.setenv("AGENTBENCH_WEBSHOP", "0")
    found.install(found.configured())
    assert "web_agent_site" not in sys.modules
    monkeypatch.setenv("AGENTBENCH_WEBSHOP", "1")
    found.install(found.configured())
    assert "web_agent_site" in sys.modules
