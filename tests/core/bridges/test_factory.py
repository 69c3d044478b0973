"""Environments in TRL's shape: what its trainer relies on, and a run of the trainer itself."""

import inspect
import random

import pytest
from places import ROOT

from agentbench.bridges.episode import EpisodeOver
from agentbench.bridges.factory import environment_factory
from agentbench.errors import UnknownName
from agentbench.registry import env_spec

TASK = "5-2-black-red-right"


def test_one_tool_and_a_reward():
    kind = environment_factory("corridor")
    made = kind()
    public = [
        name for name, _ in inspect.getmembers(type(made), inspect.isfunction) if not name.startswith("_")
    ]
    assert public == ["act", "get_reward", "reset"]
    assert type(made).__name__ == "CorridorEnvironment"
    assert made.get_reward() == 0.0  # one is made to be looked at, and never reset
    documented = inspect.getdoc(made.act)
    assert "Args:\n    command: " in documented
    assert "Returns:" in documented
    assert inspect.signature(made.act).parameters["command"].annotation in (str, "str")


def test_an_episode_of_a_row():
    made = environment_factory("corridor")()
    row = {"prompt": [{"role": "user", "content": "Play."}], "task": TASK, "answer": "ignored"}
    shown = made.reset(**row)
    assert shown.startswith("Room 2 of 5.")
    assert shown.endswith("Commands: go left, go right, open door")
    for _ in range(3):
        made.act("go right")
    assert made.get_reward() == 0.0
    assert made.act("open door").endswith("The episode is over.")
    assert made.get_reward() == 1.0
    with pytest.raises(EpisodeOver, match="the episode is over"):
        made.act("open door")
    made.reset(**row)
    assert made.get_reward() == 0.0


def test_the_reward_is_a_share_of_what_success_pays():
    spec = env_spec("alfworld")
    made = environment_factory("alfworld", list_commands=False)()
    made.reset(index=0)
    expert = spec.expert(made._seat.env)
    text = ""
    while "The episode is over." not in text:
        text = made.act(expert.act())
        assert "Commands: " not in text
    assert spec.reward_unit == 10.0
    assert made.get_reward() == 1.0


def test_an_instruction_that_is_not_on_the_page_is_shown_first():
    made = environment_factory("webshop")()
    shown = made.reset(index=0)
    local = env_spec("webshop").make()
    _, info = local.reset(options={"task": env_spec("webshop").tasks("mini-train")[0]})
    assert shown.startswith(info["instruction"] + "\n")


def test_the_limit_ends_an_episode():
    made = environment_factory("corridor", max_turns=1)()
    made.reset(task=TASK)
    assert made.act("dance").endswith("The episode is over.")
    assert made.get_reward() == 0.0


def test_a_wrong_name_is_said():
    with pytest.raises(UnknownName, match="Did you mean 'corridor'"):
        environment_factory("coridor")
    with pytest.raises(UnknownName, match="split"):
        environment_factory("corridor", split="trian")


CALL = '<tool_call>\n{"name": "act", "arguments": {"command": "%s"}}\n</tool_call><|im_end|>'


def command_for(text, good):
    """Read the corridor's last answer: towards the right door, or away from it."""
    last = text[text.rindex("Room ") :]
    room, rooms = int(last.split()[1]), int(last.split()[3].rstrip("."))
    wanted = last.split("Leave by the ")[1].split()[0]
    leftwards = f"The {wanted} door is left" in last
    if not good:
        leftwards = not leftwards
    if room == (1 if leftwards else rooms):
        return "open door"
    return "go left" if leftwards else "go right"


@pytest.mark.filterwarnings("ignore")
def test_trl_trains_three_steps_on_our_rewards(tmp_path, monkeypatch):
    """The model's own sampling is replaced by two players, so that it is known what each rollout must earn."""
    pytest.importorskip("trl", reason="TRL is not installed")
    pytest.importorskip("datasets", reason="TRL needs datasets")
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "bridges"))
    import trl_grpo
    from transformers import Qwen3ForCausalLM
    from trl.chat_template_utils import qwen3_chat_template

    from agentbench.models.tiny import make_model, make_tokenizer

    tokenizer = make_tokenizer(tmp_path, ["go left go right open door"])
    marks = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = qwen3_chat_template
    make_model(tmp_path, tokenizer, hidden=16, layers=1, heads=2, kv_heads=1, max_position=8192)
    model = Qwen3ForCausalLM.from_pretrained(tmp_path)
    before = model.model.embed_tokens.weight.detach().clone()
    players, told = {}, []

    def generate(input_ids, attention_mask, **_):
        """Every second rollout of a question goes to the right door, the others to the wrong one."""
        replies = []
        for row, mask in zip(input_ids, attention_mask, strict=True):
            text = tokenizer.decode(row[mask.bool()])
            told.append(text)
            if "The episode is over." in text:
                replies.append(tokenizer("Done.<|im_end|>")["input_ids"])
                continue
            turns = text.count("<tool_response>")
            if turns == 0:  # the rollouts of one question follow one another
                players[text] = players.get(text, 0) + 1
                good = players[text] % 2 == 1
            else:
                first = text[: text.index("<tool_call>", text.index("<|im_start|>assistant"))]
                good = command_for(first, True) in text[len(first) :].split("}}")[0]
            replies.append(tokenizer(CALL % command_for(text, good))["input_ids"])
        width = max(map(len, replies))
        padded = [reply + [tokenizer.pad_token_id] * (width - len(reply)) for reply in replies]
        return torch.cat([input_ids, torch.tensor(padded)], 1)

    model.generate = generate
    trainer = trl_grpo.make_trainer(
        model,
        tokenizer,
        env="corridor",
        split="train",
        tasks=6,
        max_steps=3,
        output_dir=str(tmp_path / "out"),
        num_generations=2,
        per_device_train_batch_size=4,
        max_completion_length=6000,
        learning_rate=1e-2,
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer.train()
    steps = [line for line in trainer.state.log_history if "reward" in line]
    assert len(steps) == 3
    # two questions a step, of each the right door (1) and the wrong one (0): mean (1+0+1+0)/4
    assert [line["rewards/CorridorEnvironment/mean"] for line in steps] == [0.5] * 3
    assert [line["reward"] for line in steps] == [0.5] * 3
    assert all(line["grad_norm"] > 0 for line in steps)
    assert not torch.equal(model.model.embed_tokens.weight, before)
    # the same commands in the env itself earn the same
    local, rng = env_spec("corridor").make(), random.Random(0)
    for task in env_spec("corridor").tasks("train")[:6]:
        for good in (True, False):
            text, _ = local.reset(seed=rng.randrange(9), options={"task": task})
            ended = False
            while not ended:
                text, reward, ended, _, info = local.step(command_for(text, good))
            assert (reward == 1.0) == info["success"] == good
