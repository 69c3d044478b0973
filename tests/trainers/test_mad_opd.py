import math
from dataclasses import replace

import pytest
import torch
from debaters import TEXTS, speaker, write_long
from places import ROOT
from spoken import FRESH, GROWING, prompted, spoken_groups
from trainer_cases import assert_close, gradient, make_run, make_trajectory, make_turn, random_groups
from transformers import AutoModelForCausalLM

from agentbench.config import validate
from agentbench.dialogue.render import scene_of
from agentbench.engines.scripted import Reply
from agentbench.errors import ConfigError, TrainingError, UsageError
from agentbench.registry import env_spec
from agentbench.runs.episodes import decode_episode
from agentbench.runs.files import read_lines
from agentbench.trainers.gkd import SPEC as GKD
from agentbench.trainers.mad_opd import SPEC, MadOpdConfig
from agentbench.trainers.maths.divergences import full_vocabulary
from agentbench.training.config import SpeakerConfig, TeacherConfig, TrainConfig
from agentbench.training.loop import train
from agentbench.types import Group

EXACT = {"max_grad_norm": 1e9, "weight_decay": 0.0}
LAYOUTS = pytest.mark.parametrize("prompt", [GROWING, FRESH], ids=["growing", "fresh"])


@pytest.fixture(scope="module")
def pair(models, tmp_path_factory):
    """Two teachers that can read debates, of different widths, the second with a padded head."""
    root, tokenizer = tmp_path_factory.mktemp("pair"), models["tokenizer"]
    return {
        **models,
        "first": write_long(root / "first", tokenizer, seed=2),
        "second": write_long(root / "second", tokenizer, seed=5, hidden=48, vocab=len(tokenizer) + 7),
    }


def make(pair, settings, *, teachers=("first", "second"), prompt=GROWING, **values):
    run = prompted(make_run(pair, "mad_opd", **(EXACT | values)), prompt)
    brief = SpeakerConfig(max_new_tokens=60) if settings.get("rounds", 2) else None
    named = tuple(TeacherConfig(model_name_or_path=pair[name], speaker=brief) for name in teachers)
    run = run.model_copy(update={"teachers": named})
    return SPEC.build(run, SPEC.config(**settings))


def debating(pair, answers, settings=None, **values):
    """A trainer whose teachers say what `answers` (one function for each) say to a prompt."""
    trainer = make(pair, {"debate": TEXTS, "rounds": 1, **(settings or {})}, **values)
    trainer.speakers = [speaker(answer, pair["tokenizer"]) for answer in answers]
    trainer.tally.speakers = trainer.speakers
    return trainer


def says(confidence):
    return lambda prompt: f"go <<CONFIDENCE={confidence}>>"


def fails_on(word, otherwise):
    return lambda prompt: Reply(failure="down") if word in prompt else otherwise


# --- limiting cases ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsd", "reverse_kl"])
def test_one_silent_teacher_is_full_vocabulary_distillation_to_the_bit(pair, kind):
    groups = random_groups(250)
    ours = gradient(make(pair, {"rounds": 0, "divergence": kind}, teachers=["first"]), groups)
    run = make_run(pair | {"teacher": pair["first"]}, "gkd", **EXACT)
    theirs = gradient(GKD.build(run, GKD.config(divergence=kind, reduction="turn_sum")), groups)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_all_the_weight_on_one_teacher_is_that_teacher_alone(pair):
    """The second teacher never answers: w = (1, 0)."""
    groups = spoken_groups(make(pair, {"rounds": 0}).run, pair["tokenizer"])
    both = gradient(debating(pair, [says(50), fails_on("", None)]), groups)
    alone = gradient(debating(pair, [says(50)], teachers=["first"]), groups)
    assert_close(both, alone)


def test_teachers_equal_to_the_student_teach_nothing(pair):
    twins = pair | {"first": pair["student"], "second": pair["student"]}
    found = gradient(make(twins, {"rounds": 0}), random_groups(250))
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())


def test_two_equal_silent_teachers_are_one(pair):
    groups = random_groups(250)
    twins = gradient(make(pair, {"rounds": 0}, teachers=["first", "first"]), groups)
    assert_close(twins, gradient(make(pair, {"rounds": 0}, teachers=["first"]), groups))


# --- numbers by hand --------------------------------------------------------------------------------------------------


def hand_made(values_NK, weight_NK, lengths):
    """The loss of one step from D_k and w_k of each turn: two episodes of turns (0, 1) and (2,), turn_sum."""
    turns = [
        sum(w * d for w, d in zip(ws, ds, strict=True)) for ws, ds in zip(weight_NK, values_NK, strict=True)
    ]
    heard = [sum(ws) > 0 for ws in weight_NK]
    episodes = [[0, 1], [2]]
    counted = [[n for n in turns_of if heard[n]] for turns_of in episodes]
    counted = [turns_of for turns_of in counted if turns_of]
    assert lengths == [2, 1, 3]
    return sum(sum(turns[n] for n in turns_of) for turns_of in counted) / len(counted)


def third_case(prompt):
    """The first teacher of the third example; a state's prompt holds the states before it, too."""
    if "hall 2" in prompt:
        return Reply(failure="down")
    return "go <<CONFIDENCE=100>>" if "hall 1" in prompt else "go"


@pytest.mark.parametrize(
    ("answers", "weight_NK"),
    [
        # 1: all answer, confidences 95 and 70 on every turn: w = 1 / (1 + exp(-0.25)) and the rest
        ((says(95), says(70)), [[0.5622, 0.4378]] * 3),
        # 2: the second teacher fails on the second state: the first takes its weight there
        ((says(90), fails_on("hall 1", "go <<CONFIDENCE=80>>")), [[0.5250, 0.4750], [1, 0], [0.5250, 0.4750]]),
        # 3: both fail on the third state, the only one of its episode: one episode is left, not two;
        #    the first gives no confidence on the first state: both count the same there
        (
            (
                third_case,
                fails_on("hall 2", "go <<CONFIDENCE=0>>"),
            ),
            [[0.5, 0.5], [0.7311, 0.2689], [0, 0]],
        ),
    ],
)  # fmt: skip
def test_the_loss_of_a_step_by_hand(pair, answers, weight_NK):
    """Each teacher's divergence of each turn is read off a run; weights, sums and denominators are worked out."""
    trainer = debating(pair, answers, {"divergence": "jsd"}, prompt=FRESH)
    lengths, episodes, n = [2, 1, 3], [], 0
    for key, count in (("a", 2), ("b", 1)):
        turns = []
        for k in range(count):
            scene = f"hall {n}"
            turn = make_turn(k, [], [7] * lengths[n], observation=scene, fresh=True)
            turns.append(turn)
            written = trainer.reader.renderer.render(scene_of_turn(key, turns))
            turns[-1] = replace(turn, context_ids=tuple(written.context_ids))
            n += 1
        episodes.append(make_trajectory(key, turns))
    groups = [Group("t", 0, tuple(episodes))]
    update = trainer.update(groups, 0)
    found_NK = [[update.turn_columns[f"weight_teacher_{k}"].get(key, 0.0) for k in (1, 2)] for key in KEYS]
    for found, expected in zip(found_NK, weight_NK, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    values_NK = own_divergences(trainer, pair, groups)
    assert update.metrics["loss"] == pytest.approx(hand_made(values_NK, weight_NK, lengths), rel=1e-3)
    dropped = sum(1 for row in weight_NK if sum(row) == 0) / 3
    assert update.metrics["debate/dropped_share"] == pytest.approx(dropped)


KEYS = [("a", 0), ("a", 1), ("b", 0)]


def scene_of_turn(key, turns):
    return scene_of(make_trajectory(key, turns), len(turns) - 1)


def own_divergences(trainer, pair, groups):
    """D_k of each turn, token-mean JSD in float64, from each teacher's private prompt."""
    fresh = AutoModelForCausalLM.from_pretrained(pair["student"], dtype=torch.float64)
    found = []
    for row in reference_rows(trainer, pair, groups, fresh):
        found.append(
            [0.0 if p is None else full_vocabulary(row.q, p, kind="jsd").mean().item() for p in row.ps]
        )
    return found


class Row:
    """The student's log-probs of a turn [A, V], each teacher's after its private prompt, and what was debated."""

    def __init__(self, key, q, ps):
        self.key, self.q, self.ps = key, q, ps


def reference_rows(trainer, pair, groups, student):
    """Every turn in float64; the debate is what the speakers remember of it."""
    models = [
        AutoModelForCausalLM.from_pretrained(config.model_name_or_path, dtype=torch.float64)
        for config in trainer.run.teachers
    ]
    size = len(pair["tokenizer"])
    batch = trainer.collate(groups)
    council = trainer._debated(groups, batch)
    for group in groups:
        for member in group.members:
            for turn in member.turns:
                key, said = (member.id, turn.index), list(turn.action.token_ids)
                debate, ps = council.debates[key], []
                own = [
                    i
                    for past in member.turns[: turn.index]
                    if not turn.fresh
                    for i in (*past.context_ids, *past.action.token_ids)
                ]
                own += turn.context_ids
                q = read(student, own, said, size)
                for k, model in enumerate(models):
                    text = trainer.texts.write("answer", me=k, transcript=debate.transcript)
                    prompt = trainer.reader.prompt_ids(member, turn, text)
                    ps.append(read(model, prompt, said, size).detach() if debate.present[k] else None)
                yield Row(key, q, ps)


def read(model, prompt, said, size):
    ids = torch.tensor([[*prompt, *said]])
    return model(input_ids=ids).logits[0, len(prompt) - 1 : -1, :size].log_softmax(-1)


# --- against float64 --------------------------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("combine", ["sum", "mixture"])
def test_the_gradient_is_that_of_the_float64_objective(pair, prompt, combine):
    """Eq. 8 over the turns, on private prompts; the second teacher is missing in some states."""
    answers = [says(90), fails_on("room 3", "go <<CONFIDENCE=40>>")]
    keys = {"combine": combine, "divergence": "jsd"}
    trainer = debating(pair, answers, keys, prompt=prompt, tokens_per_micro_batch=150)
    groups = spoken_groups(trainer.run, pair["tokenizer"], groups=3)
    ours = gradient(trainer, groups)
    student = AutoModelForCausalLM.from_pretrained(pair["student"], dtype=torch.float64)
    first = 1.0 / (1.0 + math.exp(-0.5))  # of 90 against 40
    loss, missing = 0.0, 0
    for row in reference_rows(trainer, pair, groups, student):
        weights = [first, 1.0 - first] if row.ps[1] is not None else [1.0, 0.0]
        missing += row.ps[1] is None
        there = [(w, p) for w, p in zip(weights, row.ps, strict=True) if w]
        if combine == "sum":
            loss = loss + sum(w * full_vocabulary(row.q, p, kind="jsd").mean() for w, p in there)
        else:
            mixed = sum(w * p.exp() for w, p in there).log()
            loss = loss + full_vocabulary(row.q, mixed, kind="jsd").mean()
    assert missing  # turn_sum: summed over the turns of an episode, mean over episodes
    (loss / sum(len(group.members) for group in groups)).backward()
    assert_close(ours, {name: parameter.grad for name, parameter in student.named_parameters()})


@LAYOUTS
@pytest.mark.parametrize("budget", [1, 120])
def test_the_cut_into_micro_batches_changes_nothing(pair, prompt, budget):
    def found(**values):
        trainer = debating(pair, [says(90), fails_on("room 3", "go")], prompt=prompt, **values)
        return gradient(trainer, spoken_groups(trainer.run, pair["tokenizer"], groups=3))

    assert_close(found(tokens_per_micro_batch=budget), found())


def test_states_without_any_teacher_count_nowhere(pair):
    """As if their turns had been somebody else's: neither in the loss nor in the denominator."""
    answers = [fails_on("room 3", "go"), fails_on("room 3", "go")]
    trainer = debating(pair, answers, {"reduction": "turn_mean"})
    groups = spoken_groups(trainer.run, pair["tokenizer"], groups=3)

    def by_another(member):
        turns = tuple(
            replace(turn, action=replace(turn.action, author="other")) if unheard(member, turn) else turn
            for turn in member.turns
        )
        return replace(member, turns=turns)

    def unheard(member, turn):
        return any("room 3" in past.observation for past in member.turns[: turn.index + 1])

    assert any(unheard(m, t) for g in groups for m in g.members for t in m.turns)
    others = [replace(group, members=tuple(map(by_another, group.members))) for group in groups]
    assert_close(
        gradient(trainer, groups), gradient(debating(pair, answers, {"reduction": "turn_mean"}), others)
    )


def test_a_step_in_which_nobody_answers_is_skipped_and_counted(pair):
    trainer = debating(pair, [fails_on("", None)] * 2)
    before = {name: x.clone() for name, x in trainer.weights()}
    metrics = trainer.update(spoken_groups(trainer.run, pair["tokenizer"]), 0).metrics
    assert metrics["debate/dropped_share"] == 1.0
    assert metrics["skipped_steps"] == 1.0
    assert metrics["debate/faults"] > 0
    assert all(torch.equal(before[name], x) for name, x in trainer.weights())


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_process_whose_episodes_all_broke_has_nothing_to_say(pair, rounds):
    broken = make_trajectory("a", [make_turn(0, [1, 2], [3])], end="error")
    trainer = debating(pair, [says(1), says(2)]) if rounds else make(pair, {"rounds": 0})
    metrics = trainer.update([Group("t", 0, (broken,))], 0).metrics
    assert metrics["skipped_steps"] == 1.0
    assert metrics["episode_errors"] == 1.0


# --- what is seen and reported ----------------------------------------------------------------------------------------


def test_each_teacher_reads_the_debate_and_the_student_none_of_it(pair):
    trainer = debating(pair, [says(90), says(40)])
    groups = spoken_groups(trainer.run, pair["tokenizer"])
    batch = trainer.collate(groups)
    council = trainer._debated(groups, batch)
    for k, teacher in enumerate(council.teachers):
        for row in teacher.rows.batch.tokens_BT:
            text = pair["tokenizer"].decode(row.tolist())
            assert f"{'AB'[k]} read {{Expert A, round 1:" in text
            assert "<<CONFIDENCE=90>>" in text
            assert "<<CONFIDENCE=40>>" in text
    again = trainer.collate(groups)
    assert torch.equal(batch.tokens_BT, again.tokens_BT)
    assert not any("CONFIDENCE" in pair["tokenizer"].decode(row.tolist()) for row in batch.tokens_BT)


def test_the_privileged_gap_is_what_the_debate_changed(pair):
    """On the probed row: JSD after the debate minus JSD without it, in float64."""
    trainer = debating(pair, [says(90)], teachers=["first"])
    groups = spoken_groups(trainer.run, pair["tokenizer"], groups=1, members=1, most_turns=1)
    gap = trainer.update(groups, 0).metrics["privileged_gap/teacher_1"]
    student = AutoModelForCausalLM.from_pretrained(pair["student"], dtype=torch.float64)
    (row,) = reference_rows(trainer, pair, groups, student)
    (turn,) = groups[0].members[0].turns
    model = AutoModelForCausalLM.from_pretrained(pair["first"], dtype=torch.float64)
    plain = read(model, list(turn.context_ids), list(turn.action.token_ids), len(pair["tokenizer"]))
    with_, without = (full_vocabulary(row.q, p, kind="jsd").mean() for p in (row.ps[0], plain))
    assert abs((with_ - without).item()) > 1e-4
    assert gap == pytest.approx((with_ - without).item(), rel=1e-3)


def test_the_figures_of_a_debate(pair):
    answers = [
        says(90),
        lambda prompt: "stay <<CONFIDENCE=40>>" if "FIRST" in prompt else "go <<CONFIDENCE=60>>",
    ]
    trainer = debating(pair, answers, {"rounds": 2})
    update = trainer.update(spoken_groups(trainer.run, pair["tokenizer"]), 0)
    found = update.metrics
    assert found["debate/agreement"] == 0.0  # go and stay
    assert found["debate/changed_share"] == 0.5  # the second teacher alone
    assert found["debate/confidence/teacher_1"] == 90.0
    assert found["debate/confidence/teacher_2"] == 60.0  # of the last round
    assert found["debate/weight/teacher_1"] == pytest.approx(1 / (1 + math.exp(-0.3)), abs=1e-6)
    assert found["debate/faults"] == found["debate/dropped_share"] == found["debate/one_missing_share"] == 0.0
    assert found["teachers_apart"] > 0.0
    assert 0.0 <= found["unlikely_share/teacher_1"] < 1.0
    assert found["debate/tokens_per_trained_token"] > 1.0
    assert all(text.count("Expert ") == 4 for text in update.notes["debate"].values())
    weight = found["debate/weight/teacher_1"]  # the same on every turn, so means add up
    parts = weight * found["divergence/teacher_1"] + (1 - weight) * found["divergence/teacher_2"]
    assert found["teacher_gap"] == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize(
    ("keys", "expected"), [({"confidence": "equal"}, 0.5), ({"confidence": "logprob"}, None)]
)
def test_other_sources_of_weights(pair, keys, expected):
    trainer = debating(pair, [says(90), says(10)], keys)
    update = trainer.update(spoken_groups(trainer.run, pair["tokenizer"]), 0)
    weights = list(update.turn_columns["weight_teacher_1"].values())
    if expected is not None:
        assert weights == pytest.approx([expected] * len(weights))
        return
    for weight in weights:
        assert 0.2689 <= weight <= 0.7311
        assert weight != pytest.approx(1 / (1 + math.exp(-0.8)))  # not what was reported


def test_top_k_supports_weigh_teachers_alike(pair):
    """With every id in the support, top-K is the full vocabulary."""
    size = len(pair["tokenizer"])
    groups = random_groups(250)
    covering = make(pair, {"rounds": 0, "support": "top_k", "k": size, "tail": "renormalise"})
    assert_close(gradient(covering, groups), gradient(make(pair, {"rounds": 0}), groups), tolerance=1e-4)


def test_the_examples_two_teachers_know_different_chores():
    whole, placing, treating = (
        set(env_spec(name).tasks("mini-train"))
        for name in (
            "alfworld",
            *(f"{ROOT}/examples/learning/chores.py:{half}" for half in ("PLACING", "TREATING")),
        )
    )
    assert placing | treating == whole
    assert not placing & treating
    assert len(placing) == len(treating) == len(whole) / 2


# --- whole runs -------------------------------------------------------------------------------------------------------


def played(pair, folder, steps, resume=False, **trainer):
    values = {
        "algorithm": "mad_opd",
        "output_dir": str(folder),
        "model_name_or_path": pair["student"],
        "teachers": [
            {
                "model_name_or_path": pair[name],
                "speaker": {"max_new_tokens": 5, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
            }
            for name in ("first", "second")
        ],
        "env": {"name": "corridor", "split": "train", "prompt": "corridor/transcript", "max_turns": 3},
        "rollout": {"tasks_per_step": 2, "group_size": 2, "max_new_tokens": 4},
        "trainer": {"rounds": 1, "debate": TEXTS, **trainer},
        "max_steps": steps,
        "learning_rate": 1e-3,
        "save_steps": 1,
        "seed": 3,
    }
    return train(validate(TrainConfig, values), resume=resume, report=lambda line: None)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(pair, tmp_path):
    whole = played(pair, tmp_path / "whole", 2)
    played(pair, tmp_path / "parts", 1)
    rest = played(pair, tmp_path / "parts", 2, resume=True)
    same = [name for name in whole if not name.startswith(("seconds/", "debate/recalled", "debate/tokens"))]
    assert {name: rest[name] for name in same} == {name: whole[name] for name in same}
    step = "rollouts/step-000001.jsonl"
    assert notes(tmp_path / "parts" / step) == notes(tmp_path / "whole" / step)


def notes(file):
    episodes = [decode_episode(line) for _, line in read_lines(file)]
    found = [turn.notes.get("debate") for episode in episodes for turn in episode.turns]
    assert any(found)
    return found


def test_in_step_mode_the_decision_alone_is_debated(pair, tmp_path):
    played(pair, tmp_path / "run", 1, plan="step", states_per_episode=2)
    lines = read_lines(tmp_path / "run" / "rollouts" / "step-000000.jsonl")
    for episode in (decode_episode(line) for _, line in lines):
        if episode.end != "context_full":
            debated = [turn.index for turn in episode.turns if "debate" in turn.notes]
            assert debated == [episode.parent.turn]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prefix": "reference"}, "'prefix' is used by plan 'step' only"),
        ({"rounds": 0, "debate": "code"}, "'debate' is used by a debate"),
        ({"rounds": 0, "confidence": "equal"}, "'confidence' is used by a debate"),
        (
            {"confidence": "equal", "confidence_temperature": 2.0},
            "'confidence_temperature' is used by weights",
        ),
        ({"k": 8}, "'k' is used by support 'top_k' only"),
        ({"combine": "mixture", "support": "top_k"}, "needs whole distributions"),
        ({"divergence": "reverse_kl", "beta": 0.3}, "'beta' is used by divergence 'jsd' only"),
        ({"kd_temperature": 2.0, "support": "top_k"}, "needs tail 'renormalise'"),
        ({"rounds": -1}, "rounds"),
    ],
)
def test_keys_that_would_be_ignored_are_refused(keys, message):
    with pytest.raises(ConfigError) as caught:
        validate(MadOpdConfig, keys, "trainer.")
    assert message in str(caught.value)


def test_who_cannot_speak_is_refused_before_a_model_is_loaded(models):
    run = make_run(models, "mad_opd")
    server = TeacherConfig(model_name_or_path="t", backend="server", base_url="http://localhost:1")
    with pytest.raises(ConfigError, match="name who speaks for it"):
        SPEC.refuse(run.model_copy(update={"teachers": (server,)}), MadOpdConfig())
    silent = run.teachers[0].model_copy(update={"speaker": SpeakerConfig()})
    with pytest.raises(ConfigError, match=r"teachers\.0\.speaker is not used without a debate"):
        SPEC.refuse(run.model_copy(update={"teachers": (silent,)}), MadOpdConfig(rounds=0))


def test_a_debate_that_may_fill_the_teachers_context_is_refused_at_the_start(pair):
    """Two rounds of two messages of 1,024 tokens are 4,096, the teacher's context; half of that leaves room."""
    run = prompted(make_run(pair, "mad_opd"), GROWING)

    def build(limit):
        speaking = SpeakerConfig(max_new_tokens=limit)
        both = tuple(TeacherConfig(model_name_or_path=pair[n], speaker=speaking) for n in ("first", "second"))
        return SPEC.build(run.model_copy(update={"teachers": both}), SPEC.config(rounds=2, debate=TEXTS))

    with pytest.raises(UsageError, match=r"debate that teachers\.0 reads .* may have 4\d\d\d tokens"):
        build(1024)
    build(512)


def test_a_debate_that_the_teacher_cannot_read_names_the_turn(pair):
    """The start knows nothing of the conversation, which grows beyond what is left."""
    texts = TEXTS | {"answer": "$transcript " + "x " * 1980}
    trainer = debating(pair, [says(1)], {"debate": texts}, teachers=["first"])
    with pytest.raises(
        TrainingError, match=r"task 'task 0', episode '0/0/\d', turn \d+: .* that it may read"
    ):
        trainer.update(spoken_groups(trainer.run, pair["tokenizer"], most_turns=12), 0)
