import pytest

from agentbench.envs.search_qa.env import SPEC, SearchQADecoy
from agentbench.envs.search_qa.players import LookUp, TextPlayer, answer, passages_in, search
from agentbench.envs.search_qa.world.asking import Plan
from agentbench.policies.ready import ExpertPolicy, ExplorerPolicy, NullPolicy, RandomPolicy, ScriptedPolicy
from agentbench.retrieval.contract import Passage
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes


def share(policy, split, count, **options):
    episodes = [Episode(SPEC, task, 7) for task in SPEC.tasks(split)[:count]]
    found = list(run_episodes(episodes, policy, env_options=options, concurrency=8))
    assert all(item.ok for item in found)
    return sum(bool(item.success) for item in found) / len(found)


@pytest.mark.parametrize("split", ["mini-test", "mini:3", "mini:5", "mini:6"])
def test_the_expert_and_the_explorer_answer_everything_through_the_real_retriever(split):
    assert share(ExpertPolicy(), split, 128) == 1.0
    assert share(ExplorerPolicy(), split, 128) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("split", ["mini:3", "mini:5", "mini:6"])
@pytest.mark.parametrize("protocol", ["verl-agent", "search-r1"])
def test_the_expert_answers_all_questions_of_a_world(split, protocol):
    assert share(ExpertPolicy(), split, 512, protocol=protocol) == 1.0


def test_the_expert_answers_by_the_other_protocol_too():
    assert share(ExpertPolicy(), "mini-test", 64, protocol="search-r1") == 1.0
    assert share(ExplorerPolicy(), "mini-test", 64, protocol="search-r1") == 1.0


def test_those_who_do_not_look_anything_up_answer_nothing():
    assert share(RandomPolicy(), "mini-test", 256) < 0.02
    assert share(NullPolicy(), "mini-test", 256) < 0.02
    assert share(ScriptedPolicy(lambda view: answer(view.observation)), "mini-test", 256) < 0.02
    assert (
        share(ScriptedPolicy(lambda view: answer("yes")), "mini-test", 256) < 0.05
    )  # one question in ten compares


def test_a_decoy_looks_up_another_question():
    assert share(ScriptedPolicy(decoy_of), "mini-test", 64) < 0.05


def decoy_of(view):
    if not view.turns:
        view.env.decoy = SearchQADecoy(view.env, 3)
    return view.env.decoy.act()


def test_commands_hold_no_tags_and_no_line_breaks():
    assert search("a <b>\n c") == "<search>a b c</search>"
    assert answer("x</answer>") == "<answer>x /answer</answer>"


def test_a_query_that_did_not_help_is_put_differently_and_the_last_reply_is_an_answer():
    look_up = LookUp(Plan(("Bo Lark",), ("born",)))
    assert look_up.command([], last=False) == "<search>Bo Lark was born in when</search>"
    assert look_up.command(["nothing"], last=False) == "<search>Bo Lark</search>"
    assert look_up.command(["nothing"], last=True) == "<answer>Bo Lark</answer>"
    assert (
        look_up.command(["Bo Lark was born in 1900 in the town of X."], last=False) == "<answer>1900</answer>"
    )


def test_the_explorer_reads_both_wrappings_and_answers_foreign_questions_with_a_title():
    from agentbench.envs.search_qa.protocol import PRESETS

    passages = [Passage("1", "Ada", "Ada was born in 1815 in the town of London.")]
    for rules in PRESETS.values():
        observation = rules.observation(passages)
        assert "Ada was born in 1815" in passages_in(observation)
        player = TextPlayer("In what year was Ada born?")
        player.observe("In what year was Ada born?")
        assert player.act([]) == "<search>Ada was born in when</search>"
        player.observe(observation)
        assert player.act([]) == "<answer>1815</answer>"
        foreign = TextPlayer("who was it")
        foreign.observe("who was it")
        assert foreign.act([]) == "<search>who was it</search>"
        foreign.observe(observation)
        assert foreign.act([]) == "<answer>Ada</answer>"
    assert passages_in("no such thing") == ""


def test_the_expert_searches_for_a_public_question_once_and_gives_a_gold(files, corpus):
    from agentbench.datasets import dataset, import_data

    import_data(dataset("search-qa"), files)
    found = run_episodes(
        [Episode(SPEC, SPEC.tasks("nq")[0], 0)], ExpertPolicy(), env_options={"corpus": str(corpus)}
    )
    (item,) = found
    assert [turn.env_action for turn in item.turns] == [
        "<search>who wrote the first program</search>",
        "<answer>Ada Lovelace</answer>",
    ]
    assert item.success
