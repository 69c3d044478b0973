import pytest
import torch
from debaters import TEXTS, speaker, write_long
from places import FAKE_ENDPOINT
from spoken import GROWING, prompted, spoken_groups
from trainer_cases import make_run

from agentbench.engine import Completion
from agentbench.engines import http as http_client
from agentbench.engines.scripted import Reply
from agentbench.errors import ConfigError, EngineFailure, UsageError
from agentbench.registry import load
from agentbench.trainers.base import Algorithm
from agentbench.trainers.gkd import SPEC as GKD
from agentbench.trainers.mad_opd import SPEC as MAD_OPD
from agentbench.trainers.teachers.local import LocalTeacher
from agentbench.trainers.teachers.speaking import Speaker, open_speaker, speak
from agentbench.training.check import check
from agentbench.training.config import SpeakerConfig, TeacherConfig
from agentbench.types import Action

ECHO = lambda prompt: f"to {prompt.split()[-2]}"


def said(prompts, voice):
    (answers,) = speak([(voice, prompts)])
    return {key: item.text for key, item in answers.items()}


def test_equal_prompts_are_asked_once_and_answers_are_remembered(models):
    voice = speaker(ECHO, models["tokenizer"])
    assert said({1: "ask x", 2: "ask y", 3: "ask x"}, voice) == {1: "to x", 2: "to y", 3: "to x"}
    assert len(voice.script.prompts) == 2
    assert said({9: "ask y"}, voice) == {9: "to y"}
    assert len(voice.script.prompts) == 2
    assert voice.recalled == 2


def seeds(voice):
    return {tuple(request.token_ids): request.seed for request in voice.engine.requests}


def test_seeds_follow_from_prompt_speaker_and_run_alone(models):
    first, resumed, other = (speaker(ECHO, models["tokenizer"], seed=seed) for seed in (4, 4, 5))
    said({1: "ask x", 2: "ask y"}, first)
    said({7: "ask y"}, resumed)  # another order, another company, after a stop
    said({1: "ask x", 2: "ask y"}, other)
    mine = seeds(first)
    assert len(set(mine.values())) == 2
    assert all(mine[ids] == seed for ids, seed in seeds(resumed).items())
    assert all(mine[ids] != seed for ids, seed in seeds(other).items())


def test_a_fault_is_counted_missing_and_not_remembered(models):
    broken = [True]
    answer = lambda prompt: Reply(failure="down") if broken[0] and "x" in prompt else "fine"
    voice = speaker(answer, models["tokenizer"])
    assert said({1: "ask x", 2: "ask y"}, voice) == {2: "fine"}
    assert voice.faults == {"EngineFailure": 1}
    broken[0] = False
    assert said({1: "ask x"}, voice) == {1: "fine"}


def test_a_prompt_without_room_for_a_message_is_a_counted_fault(models):
    voice = speaker(ECHO, models["tokenizer"], max_context=120)
    assert said({1: "ask x", 2: "ask " + "long " * 80}, voice).keys() == {1}
    assert voice.faults == {"ContextFull": 1}


def test_a_message_at_the_limit_is_marked_as_cut(models):
    voice = speaker(lambda prompt: "word " * 40, models["tokenizer"], max_new_tokens=5)
    ((message,),) = [list(found.values()) for found in speak([(voice, {1: "ask x"})])]
    assert message.cut
    assert message.tokens == voice.tokens == 5
    assert message.logp < 0.0


def test_chat_writes_one_user_message_and_raw_the_bare_text(models):
    tokenizer, prompt = models["tokenizer"], "say <|im_end|> it"
    chat, raw = speaker(ECHO, tokenizer), speaker(ECHO, tokenizer, format="raw")
    said({1: prompt}, chat)
    said({1: prompt}, raw)
    ids, bare = list(chat.engine.requests[0].token_ids), list(raw.engine.requests[0].token_ids)
    start, end = (tokenizer.convert_tokens_to_ids(f"<|im_{name}|>") for name in ("start", "end"))
    assert ids.count(start) == 2
    assert ids.count(end) == 1  # the message's own; what the prompt spells is text
    assert not {start, end} & set(bare)
    assert tokenizer.decode(bare) == prompt


class Messages:
    """A text engine that repeats its last message."""

    info, usage = {}, {}

    def __init__(self):
        self.asked = []

    def close(self):
        return

    def ask(self, requests):
        self.asked += requests

    def poll(self):
        ready, self.asked = self.asked, []
        return [
            Completion(r.key, failure=EngineFailure("down"))
            if "bad" in r.messages[0]["content"]
            else Completion(r.key, Action(r.messages[0]["content"].upper()))
            for r in ready
        ]


def test_an_engine_of_messages_speaks_too(models):
    voice = Speaker(Messages(), SpeakerConfig(), 0)
    assert said({1: "ask x", 2: "bad"}, voice) == {1: "ASK X"}
    assert voice.faults == {"EngineFailure": 1}
    with pytest.raises(UsageError, match="raw needs an engine that takes tokens"):
        Speaker(Messages(), SpeakerConfig(format="raw"), 0)


def test_a_local_teacher_speaks_with_the_weights_that_score(models, tmp_path):
    folder = write_long(tmp_path / "teacher", models["tokenizer"], seed=2)
    config = TeacherConfig(
        model_name_or_path=folder,
        speaker=SpeakerConfig(max_new_tokens=6, temperature=1.0, top_k=0, top_p=1.0),
    )
    student = Algorithm(make_run(models, "opd")).student
    teacher = LocalTeacher(config, student)
    before = {name: x.clone() for name, x in teacher.net.plain.named_parameters()}
    voice = open_speaker(config, teacher, 1)
    assert voice.engine.model is teacher.net.plain
    prompts = {n: f"ask {n}" for n in range(4)}
    first = said(prompts, voice)
    assert len(set(first.values())) > 1
    alone = said({2: prompts[2]}, open_speaker(config, teacher, 1))
    assert alone == {2: first[2]}
    assert all(torch.equal(before[name], x) for name, x in teacher.net.plain.named_parameters())
    assert not any(x.requires_grad for x in teacher.net.plain.parameters())


def test_a_speaker_that_nobody_listens_to_is_refused(models):
    run = make_run(models, "gkd")
    teacher = run.teachers[0].model_copy(update={"speaker": SpeakerConfig()})
    assert "speaker" not in GKD.needs
    with pytest.raises(ConfigError, match="lets no teacher speak; remove the key 'speaker'"):
        check(run.model_copy(update={"teachers": (teacher,)}))


def test_an_engine_that_is_not_there_is_refused_before_a_model_is_loaded(models):
    run = make_run(models, "mad_opd")
    for speaker_of, message in (
        (SpeakerConfig(engine="nobody"), "no engine 'nobody'"),
        (SpeakerConfig(engine_options={"slot": 3}), "unexpected keyword argument 'slot'"),
    ):
        teacher = run.teachers[0].model_copy(update={"speaker": speaker_of})
        with pytest.raises(UsageError, match=message):
            check(run.model_copy(update={"teachers": (teacher,)}))


# --- engines behind a socket ------------------------------------------------------------------------------------------

FakeServer = load("envs", f"{FAKE_ENDPOINT}:FakeServer")


@pytest.fixture
def served(models, monkeypatch):
    monkeypatch.setattr(http_client, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    reply = lambda said, seed: f"go {seed % 7} <<CONFIDENCE=60>>"
    with FakeServer([models["teacher"]], max_model_len=4096, chat=reply, trains=True) as server:
        server.tokenizer = models["tokenizer"]
        yield server


ENGINES = {
    "vllm-server": ("vllm-server", {}, "/v1/completions"),
    "openai chat": ("openai", {}, "/v1/chat/completions"),
    "openai text": ("openai", {"api": "completions", "tokenizer": True}, "/v1/completions"),
}


def remote(models, served, kind, **values):
    engine, options, path = ENGINES[kind]
    options = {key: models["teacher"] if value is True else value for key, value in options.items()}
    keys = {"max_new_tokens": 5, "temperature": 0.6, "top_p": 1.0, "top_k": 0, "stop": ["###"]} | values
    options = {"base_url": served.url, "retries": 0} | options
    speaking = SpeakerConfig(engine=engine, engine_options=options, **keys)
    config = TeacherConfig(model_name_or_path=models["teacher"], speaker=speaking)
    return open_speaker(config, None, 3), path


@pytest.mark.parametrize("kind", ENGINES)
def test_every_engine_speaks_with_its_own_sampling_limit_and_seed(models, served, kind):
    voice, path = remote(models, served, kind)
    before = len(served.bodies(path))
    prompts = {1: "ask x", 2: "ask y", 3: "ask x"}
    first = said(prompts, voice)
    assert first.keys() == {1, 2, 3}
    assert first[1] == first[3]
    bodies = served.bodies(path)[before:]
    assert len(bodies) == 2  # equal prompts are asked once
    assert {body["max_tokens"] for body in bodies} == {5}
    assert {body["temperature"] for body in bodies} == {0.6}
    assert {tuple(body["stop"]) for body in bodies} == {("###",)}
    assert len({body["seed"] for body in bodies}) == 2
    # departure of mad_opd: no repetition penalty
    assert {body.get("repetition_penalty", 1.0) for body in bodies} == {1.0}
    again, _ = remote(models, served, kind)
    assert said({9: "ask y"}, again) == {9: first[2]}


@pytest.mark.parametrize("kind", ENGINES)
def test_a_fault_of_a_server_is_counted_and_what_it_should_have_said_is_missing(models, served, kind):
    voice, path = remote(models, served, kind)
    served.faults[path] = [(500, {}, {"error": {"message": "down"}})]
    assert said({1: "ask x"}, voice) == {}
    assert sum(voice.faults.values()) == 1
    assert said({1: "ask x"}, voice).keys() == {1}


def test_what_an_endpoint_refuses_is_refused_at_the_start(models, served):
    refusal = (400, {}, {"error": {"message": "Unknown parameter: 'top_k'."}})
    served.faults["/v1/chat/completions"] = [
        (200, {}, {"choices": [{"message": {"content": "yes"}}]}),
        refusal,
    ]
    with pytest.raises(UsageError, match="top_k"):
        remote(models, served, "openai chat", top_k=20)
    with pytest.raises(UsageError, match="template_options would be ignored"):
        remote(models, served, "openai chat", template_options={"enable_thinking": True})


def test_a_server_scores_and_speaks_for_a_debate(long_models, served):
    served.models.append(long_models["teacher"])
    served.max_model_len = 4096
    speaking = SpeakerConfig(
        engine="vllm-server", engine_options={"base_url": served.url}, max_new_tokens=5, top_p=1.0, top_k=0
    )
    config = TeacherConfig(
        model_name_or_path=long_models["teacher"], backend="server", base_url=served.url, speaker=speaking
    )
    run = prompted(make_run(long_models, "mad_opd"), GROWING).model_copy(update={"teachers": (config,) * 2})
    keys = {"rounds": 2, "debate": TEXTS, "confidence": "logprob", "support": "top_k", "k": 7}
    trainer = MAD_OPD.build(run, MAD_OPD.config(**keys))
    groups = spoken_groups(run, trainer.tokenizer, groups=1, members=2)
    update = trainer.update(groups, 0)
    turns = sum(len(member.turns) for member in groups[0].members)
    assert len(update.notes["debate"]) == turns
    assert update.metrics["updates"] == 1.0
    assert update.metrics["debate/faults"] == 0.0
    assert all("none" not in note and "absent" not in note for note in update.notes["confidence"].values())


def test_weights_by_log_probs_need_an_engine_that_gives_some(long_models, served):
    served.models.append(long_models["teacher"])
    speaking = SpeakerConfig(
        engine="openai", engine_options={"base_url": served.url}, top_k=0, max_new_tokens=5
    )
    config = TeacherConfig(model_name_or_path=long_models["teacher"], speaker=speaking)
    run = make_run(long_models, "mad_opd").model_copy(update={"teachers": (config,)})
    with pytest.raises(UsageError, match=r"needs log-probs, and teachers\.0 speaks through engine 'openai'"):
        MAD_OPD.build(run, MAD_OPD.config(confidence="logprob"))
    MAD_OPD.build(run, MAD_OPD.config())
