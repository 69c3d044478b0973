"""Teachers that speak through vLLM in this process, against engine hf on the same weights."""

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from spoken import GROWING, prompted, spoken_groups  # noqa: E402
from trainer_cases import make_run, make_student  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from agentbench.models.tiny import make_model  # noqa: E402
from agentbench.trainers.mad_opd import SPEC as MAD_OPD  # noqa: E402
from agentbench.trainers.teachers.open import open_teacher  # noqa: E402
from agentbench.trainers.teachers.speaking import open_speaker, speak  # noqa: E402
from agentbench.training.config import TeacherConfig  # noqa: E402

ASKED = {n: "look at room " + "and go " * n + "now" for n in range(12)}


@pytest.fixture(scope="module")
def models(folders):
    return {"student": str(folders["untied"]), "teacher": str(folders["tied"])}


def voice(models, engine, *, temperature=0.0, seed=7, **sampling):
    speaker = {"engine": engine, "temperature": temperature, "max_new_tokens": 10, **sampling}
    if engine == "vllm":
        speaker["engine_options"] = {"slots": 8}
    teacher = TeacherConfig(model_name_or_path=models["teacher"], speaker=speaker)
    return open_speaker(teacher, open_teacher(teacher, make_student(models)), seed)


@pytest.fixture(scope="module")
def greedy(models):
    return voice(models, "vllm")


def test_the_likeliest_messages_are_those_of_engine_hf(models, greedy):
    ours, theirs = speak([(greedy, ASKED), (voice(models, "hf"), ASKED)])
    assert ours.keys() == theirs.keys() == ASKED.keys()
    for number, said in ours.items():
        assert (said.text, said.tokens, said.cut) == (
            theirs[number].text,
            theirs[number].tokens,
            theirs[number].cut,
        )
        assert said.logp == pytest.approx(theirs[number].logp, abs=1e-4)


def test_a_prompt_without_room_is_a_counted_fault_and_the_others_are_answered(greedy):
    before = sum(greedy.faults.values())
    (found,) = speak([(greedy, {"long": "go " * 500, "short": "look at room 7"})])
    assert found.keys() == {"short"}
    assert sum(greedy.faults.values()) - before == 1
    assert greedy.faults["ContextFull"] == 1


def test_drawn_messages_follow_from_seed_and_prompt_alone(models):
    first, again, other = (voice(models, "vllm", temperature=1.0, seed=seed) for seed in (1, 1, 2))
    (all_at_once,), (backwards,), (elsewhere,) = (
        speak([(first, ASKED)]),
        speak([(again, dict(reversed(ASKED.items())))]),
        speak([(other, ASKED)]),
    )
    texts = lambda found: {n: said.text for n, said in found.items()}
    assert texts(all_at_once) == texts(backwards)
    assert texts(all_at_once) != texts(elsewhere)


def test_two_teachers_debate_and_teach(models, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(models["student"])
    teachers = []
    for seed in (1, 2):
        make_model(
            tmp_path / str(seed), tokenizer, hidden=64, heads=2, kv_heads=1, max_position=4096, seed=seed
        )
        speaker = {"engine": "vllm", "engine_options": {"slots": 8}, "max_new_tokens": 10}
        teachers.append(TeacherConfig(model_name_or_path=str(tmp_path / str(seed)), speaker=speaker))
    run = prompted(make_run(models, "mad_opd"), GROWING).model_copy(update={"teachers": tuple(teachers)})
    trainer = MAD_OPD.build(run, MAD_OPD.config(rounds=1))
    update = trainer.update(spoken_groups(run, trainer.tokenizer), 0)
    assert update.metrics["updates"] == 1.0
    assert update.metrics["debate/faults"] == 0.0
    assert update.metrics["debate/tokens_per_trained_token"] > 0.0
