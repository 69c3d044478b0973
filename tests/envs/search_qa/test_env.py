import http.server
import json
import threading

import gymnasium
import pytest

from agentbench.config import validate
from agentbench.envs.search_qa.env import SPEC, SearchQAEnv
from agentbench.envs.search_qa.world.encyclopaedia import world
from agentbench.errors import EnvFailure, UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.policies.ready import ExpertPolicy, ScriptedPolicy
from agentbench.rollout.episode import Episode, Limits
from agentbench.rollout.schedule import run_episodes
from agentbench.runs.episodes import read_episodes
from agentbench.testing import check_env
from agentbench.testing.checks import CHECKS
from agentbench.types import to_dict

TASK = SPEC.tasks("plain-test")[0]


def start(**options):
    env = SearchQAEnv(**options)
    env.reset(seed=0, options={"task": TASK})
    return env


@pytest.mark.parametrize("name", ["verl-agent", "search-r1"])
def test_conformance(name):
    report = check_env(SPEC, options={"split": "plain-test", "protocol": name}, name="search-qa")
    assert set(report.passed) == set(CHECKS)


def test_an_answer_ends_the_episode_and_pays_exact_match():
    env = start()
    _, reward, terminated, truncated, info = env.step(f"<answer>The {env.question.answers[0]}!</answer>")
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert (info["success"], info["score"], info["f1"], info["cover"]) == (True, 1.0, 1.0, 1.0)
    assert info["golds"] == list(env.question.answers)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("<search>x</search>")


def test_a_wrong_answer_pays_nothing_and_keeps_its_partial_scores():
    env = start()
    gold = env.question.answers[0]
    _, reward, terminated, _, info = env.step(f"<answer>{gold} or so</answer>")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["cover"] == 1.0
    words = len(gold.split())
    assert info["f1"] == pytest.approx(2 * words / (2 * words + 2))


def test_the_last_reply_of_verl_agent_is_not_searched_for(retriever):
    env = start()
    seen = [env.step("<search>ada</search>") for _ in range(4)]
    assert [len(observation) > 0 for observation, *_ in seen] == [True, True, True, False]
    assert [truncated for _, _, _, truncated, _ in seen] == [False, False, False, True]
    assert len(retriever.asked) == seen[-1][4]["searches"] == 3
    assert seen[-1][4]["answer"] is None


def test_search_r1_searches_four_times_and_then_gives_one_more_reply(retriever):
    env = start(protocol="search-r1")
    seen = [env.step("<search>ada</search>") for _ in range(4)]
    assert not any(truncated for _, _, _, truncated, _ in seen)
    _, reward, terminated, truncated, info = env.step(f"<answer>{env.question.answers[0]}</answer>")
    assert (reward, terminated, truncated, info["searches"]) == (1.0, True, False, 4)
    late = start(protocol="search-r1")
    for _ in range(4):
        late.step("<search>ada</search>")
    observation, _, _, truncated, info = late.step("<search>ada</search>")
    assert (observation, truncated, info["searches"]) == ("", True, 4)


def test_an_invalid_reply_is_answered_as_the_protocol_says_and_takes_a_turn(retriever):
    env = start()
    assert env.step("look")[0] == ""
    assert env.step("")[4]["replies"] == 2
    other = start(protocol="search-r1")
    assert other.step("look")[0] == other.rules.invalid_text != ""
    assert start(invalid_text="Again.").step("look")[0] == "Again."
    assert retriever.asked == []


def test_tags_in_passages_are_never_parsed(retriever):
    """The passage says <answer>Byron</answer>; references that join the whole episode would score it."""
    env = start()
    env._question = env.question.__class__("nq-0000000000", "nq", "who", ("Byron",))
    observation = env.step("<search>ada</search>")[0]
    assert "<answer>Byron</answer>" in observation
    for _ in range(3):
        info = env.step("hm")[4]
    assert (info["success"], info["f1"], info["answer"]) == (False, 0.0, None)


def test_an_episode_without_an_answer_scores_nothing_even_if_the_prompts_example_is_the_gold(retriever):
    env = start()
    env._question = env.question.__class__("nq-0000000000", "nq", "which city", ("Lima", "*"))
    for _ in range(4):
        info = env.step("I think of it")[4]
    assert (info["score"], info["f1"], info["cover"]) == (0.0, 0.0, 0.0)


def test_what_is_asked_of_the_retriever(retriever):
    start(k=2).step("<search>  who\nis it </search>")
    start().step("<search></search>")
    assert retriever.asked == [(["who\nis it"], 2), ([""], 3)]


def test_a_fault_is_raised_before_anything_changes(retriever):
    env = start()
    before = env.snapshot()
    retriever.failures = 1
    with pytest.raises(EnvFailure, match="retriever is down"):
        env.step("<search>ada</search>")
    assert env.snapshot() == before
    assert "Lovelace" in env.step("<search>ada</search>")[0]


def play(failures, retriever, **limits):
    retriever.failures = failures
    lines = ["<search>ada</search>", "<answer>x</answer>"]
    episodes = [Episode(SPEC, task, 1) for task in SPEC.tasks("plain-test")[:4]]
    return list(run_episodes(episodes, ScriptedPolicy(lines), concurrency=2, limits=Limits(**limits)))


def test_a_fault_is_recorded_and_never_scored_or_shown(retriever):
    found = play(10_000, retriever)
    assert {item.end for item in found} == {"error"}
    assert {item.success for item in found} == {None}
    assert {(item.error.type, item.error.where) for item in found} == {("EnvFailure", "env")}
    assert not any("refused" in turn.observation for item in found for turn in item.turns)


def test_an_episode_that_met_a_fault_is_played_again_and_then_equals_one_that_did_not(retriever):
    clean = play(0, retriever)
    repaired = play(2, retriever, retries=3)
    assert all(item.ok for item in repaired)
    by_task = {item.task: to_dict(item) for item in repaired}
    assert all(by_task[item.task] == to_dict(item) for item in clean)


def test_a_server_that_is_not_there_is_told_before_anything_is_played():
    """Nothing listens on port 9 of the loopback address."""
    options = {"retriever": {"kind": "client", "base_url": "http://127.0.0.1:9", "tries": 1}}
    with pytest.raises(UsageError, match="no retriever answers at http"):
        list(run_episodes([Episode(SPEC, TASK, 1)], ExpertPolicy(), env_options=options))


class Server(http.server.BaseHTTPRequestHandler):
    """A Search-R1 server over the world of the test that can fall ill."""

    ill = False

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/retrieve" or "queries" not in asked:
            return self.say(404, {"detail": "Not Found"})
        if Server.ill:
            return self.say(503, {"detail": "index broken, ask again later"})
        found = world("plain2").retriever.search(asked["queries"], asked["topk"])
        hits = [
            [
                {"document": {"id": hit.passage.id, "contents": hit.passage.contents}, "score": hit.score}
                for hit in row
            ]
            for row in found
        ]
        return self.say(200, {"result": hits})

    def do_GET(self):
        self.say(404, {"detail": "Not Found"})

    def say(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    Server.ill = False
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()
    thread.join()


def test_a_run_goes_through_a_server_that_falls_ill_and_resumes_to_the_same_numbers(server, tmp_path):
    own = play_panel(tmp_path / "own", {"retriever": "bm25"})
    assert own.overall.success.value == 1.0
    options = {
        "retriever": {
            "kind": "client",
            "base_url": server,
            "tries": 1,
            "probe_seconds": 0.01,
            "patience": 0.5,
        }
    }
    Server.ill = False
    play_panel(tmp_path / "warm", options, limit=1)  # the dialect is known from here on
    Server.ill = True
    ill = play_panel(tmp_path / "run", options)
    assert (ill.withheld, ill.overall) == (True, None)
    assert sum(ill.errors.values()) == 7  # what the first task asks was kept from the warm run
    assert set(ill.errors) <= {"EnvFailure", "Refused"}
    assert not any(
        "broken" in turn.observation for item in read_episodes(tmp_path / "run") for turn in item.turns
    )
    Server.ill = False
    well = play_panel(tmp_path / "run", options, resume=True)
    assert (well.errors, well.overall) == ({}, own.overall)


def play_panel(folder, options, *, resume=False, limit=8):
    config = {
        "panel": "search-qa/plain@1", "policy": "expert", "output_dir": str(folder), "limit": limit,
        "env_options": options, "retries": 0, "concurrency": 4,
    }  # fmt: skip
    return evaluate(validate(EvalConfig, config), resume=resume, retry_errors=resume)


def test_a_public_question_needs_a_corpus_and_takes_the_users(files, corpus):
    from agentbench.datasets import dataset, import_data
    from agentbench.errors import MissingData

    import_data(dataset("search-qa"), files)
    task = SPEC.tasks("nq")[0]
    with pytest.raises(MissingData, match="corpus=FILE"):
        SearchQAEnv().reset(options={"task": task})
    env = SearchQAEnv(corpus=str(corpus))
    observation, info = env.reset(options={"task": task})
    assert (observation, info["task_type"]) == ("who wrote the first program", "nq")
    seen, _, _, _, info = env.step("<search>first program</search>")
    assert info["passages"][0] == "p1"
    assert "Ada Lovelace" in seen
    assert env.step("<answer>lovelace.</answer>")[4]["success"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "mini"}, "split of search-qa"),
        ({"protocol": "verl"}, "protocol of search-qa"),
        ({"turnz": 3}, "rule of search-qa"),
        ({"retriever": 3}, "must be a kind"),
        ({"retriever": "http://127.0.0.1:9", "corpus": "x.jsonl"}, "would be ignored"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        SearchQAEnv(**options)


def test_an_unknown_kind_of_retriever_is_refused_before_the_first_search():
    with pytest.raises(UsageError, match="retriever 'bm26'"):
        start(retriever="bm26")


def test_the_protocol_brings_its_prompt_parser_turns_and_penalty():
    assert SPEC.under({}) == SPEC.under({"k": 5, "retriever": "bm25"}) == SPEC
    other = SPEC.under({"protocol": "search-r1"})
    assert (other.prompt, other.parser) == ("agentbench.prompts:search_qa/continuing", "search:search-r1")
    assert (other.max_turns, other.invalid_penalty) == (5, 0.0)
    assert SPEC.under({"turns": 7}).max_turns == 7
    assert SPEC.under({"tag_order": "search-r1"}).parser == "search:search-r1"
    with pytest.raises(UsageError, match="protocol of search-qa"):
        SPEC.under({"protocol": "x"})


@pytest.mark.parametrize(("name", "turns", "penalty"), [("verl-agent", 4, 0.01), ("search-r1", 5, 0.0)])
def test_an_evaluation_goes_by_the_protocol_of_its_options(tmp_path, name, turns, penalty):
    config = {
        "panel": "search-qa/plain@1", "policy": "model", "engine": "scripted", "output_dir": str(tmp_path / "run"),
        "model_name_or_path": "hm", "limit": 2, "env_options": {"protocol": name}, "max_new_tokens": 64,
    }  # fmt: skip
    summary = evaluate(validate(EvalConfig, config))
    assert summary.policy["parser"] == f"search:{name}"
    assert summary.invalid == {"no_action": 2 * turns}
    assert summary.overall.turns == turns
    assert {turn.penalty for item in read_episodes(tmp_path / "run") for turn in item.turns} == {penalty}


def test_it_is_a_gymnasium_env():
    env = gymnasium.make(SPEC.gym_id, split="plain-test")
    observation, info = env.reset(seed=3)
    assert observation == info["question"]
    assert env.reset(seed=3)[1]["task"] == info["task"]
