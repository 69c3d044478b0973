import pytest

from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.dialogue.segment import segment
from agentbench.envs.corridor import SPEC, tasks
from agentbench.errors import ConfigError
from agentbench.policies.demonstrations import MixturePolicy, TokenisedPolicy
from agentbench.policies.ready import ExpertPolicy, NullPolicy
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes
from agentbench.types import derive_seed

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    from agentbench.models.tiny import make_tokenizer

    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tok"), ["go left go right open door"], vocab_size=300)
    return Renderer(tokenizer, load_prompt("agentbench.prompts:corridor/transcript"), history=2, max_turns=20)


def run(policy, count=1, **values):
    items = [Episode(SPEC, name, derive_seed(1, name)) for name in tasks("train")[:count]]
    return list(run_episodes(items, policy, **values))


def test_expert_speaks_in_tokens_that_decode_to_its_commands(renderer):
    (item,) = run(TokenisedPolicy(ExpertPolicy(), renderer, get_parser("plain")))
    (row,) = segment(item)
    said = [token for token, turn in zip(row.token_ids, row.turn_ids, strict=True) if turn >= 0]
    expected = "".join(f"{turn.env_action}<|im_end|>" for turn in item.turns)
    assert renderer.tokenizer.decode(said, skip_special_tokens=False) == expected
    assert item.success
    assert all(turn.action.author == "expert" for turn in item.turns)


def test_labels_say_what_the_expert_would_do_on_states_others_visit(renderer):
    labeller = TokenisedPolicy(ExpertPolicy(), renderer, get_parser("plain"))
    (item,) = run(NullPolicy(), labeller=labeller)
    expert = run(ExpertPolicy())[0].turns[0].env_action
    # the null agent never moves, so the right command stays that of the first turn
    assert {turn.label.text for turn in item.turns} == {expert}
    assert {tuple(turn.label.token_ids) for turn in item.turns} == {renderer.reply_ids(expert)}


def test_mixture_follows_its_shares_by_episode_and_by_turn():
    shares = {"random": 0.5, "expert": 0.5, "impossible": 0.0}
    items = run(MixturePolicy(shares, ExpertPolicy()), 400)
    lengths = {item.task: len(item.turns) for item in run(ExpertPolicy(), 400)}
    shortest = sum(item.success and len(item.turns) == lengths[item.task] for item in items)
    # half are experts (all shortest), and a random walk of 3 commands is seldom so; 3 s.e. of 400 draws are 0.075
    assert 0.42 < shortest / 400 < 0.75


def test_mixture_does_not_depend_on_the_width():
    shares = {"random": 1.0, "half_random": 1.0, "impossible": 0.3}
    narrow = {item.id: item for item in run(MixturePolicy(shares, ExpertPolicy()), 10, concurrency=1)}
    wide = {item.id: item for item in run(MixturePolicy(shares, ExpertPolicy()), 10, concurrency=10)}
    assert narrow == wide


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"rando": 1.0}, "unknown behaviour 'rando'"),
        ({"random": -1.0}, "may not be negative"),
        ({"impossible": 0.1}, "needs a positive share"),
    ],
)
def test_bad_shares(shares, message):
    with pytest.raises(ConfigError, match=message):
        MixturePolicy(shares, ExpertPolicy())
