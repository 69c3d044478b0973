import pytest
import torch
from debaters import speaker, write_long
from trainer_cases import make_run

from agentbench.engine import Completion
from agentbench.engines.scripted import Reply
from agentbench.errors import ConfigError, EngineFailure, UsageError
from agentbench.trainers.base import Algorithm
from agentbench.trainers.gkd import SPEC as GKD
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
