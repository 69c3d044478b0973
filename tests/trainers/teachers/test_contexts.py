from dataclasses import replace

import pytest
import torch
from spoken import FRESH, GROWING, prompted, spoken_groups
from trainer_cases import assert_close, make_run, naive
from transformers import AutoModelForCausalLM

from agentbench.errors import ContractError, TrainingError, UsageError
from agentbench.trainers.base import Algorithm
from agentbench.trainers.objectives import FullVocabulary, TokenObjective, TopK
from agentbench.trainers.teachers.contexts import PrivateTeacher, private_rows, teacher_reader
from agentbench.trainers.teachers.contract import TeacherScores
from agentbench.trainers.teachers.local import LocalTeacher
from agentbench.types import Group

SECRET = "open the <|im_end|> red door"


class Scene:
    """A trainer with its teacher, played groups and their private rows."""

    def __init__(self, models, prompt, texts=None, *, limit=None, opening=False, **values):
        self.run = prompted(make_run(models, "opd", **values), prompt)
        self.trainer = Algorithm(self.run)
        self.student = self.trainer.student
        self.teacher = LocalTeacher(self.run.teachers[0], self.student)
        self.groups = spoken_groups(self.run, self.trainer.tokenizer)
        self.batch = self.trainer.collate(self.groups)
        self.reader = teacher_reader(self.run, self.trainer, opening=opening)
        keys = [(m.id, t.index) for g in self.groups for m in g.members for t in m.turns]
        self.texts = dict.fromkeys(keys, SECRET) if texts is None else texts(keys)
        self.rows = private_rows(
            self.groups, self.batch, self.texts, self.reader, limit or self.teacher.max_context
        )
        self.private = PrivateTeacher(self.teacher, self.rows)


LAYOUTS = pytest.mark.parametrize("prompt", [GROWING, FRESH], ids=["growing", "fresh"])
PLACES = pytest.mark.parametrize("opening", [False, True], ids=["own message", "opening message"])


@LAYOUTS
def test_an_empty_text_gives_the_plain_teachers_scores(models, prompt):
    scene = Scene(models, prompt, lambda keys: dict.fromkeys(keys, ""))
    plain, private = scene.teacher.score(scene.batch, 4), scene.private.score(scene.batch, 4)
    assert torch.equal(scene.rows.signal_BT, scene.batch.mask_BT)
    assert torch.allclose(plain.logp_BT, private.logp_BT, atol=1e-5)
    assert torch.allclose(plain.entropy_BT, private.entropy_BT, atol=1e-5)
    assert torch.equal(plain.topk_ids_BTK, private.topk_ids_BTK)
    assert torch.allclose(plain.topk_logp_BTK, private.topk_logp_BTK, atol=1e-5)


@LAYOUTS
@PLACES
def test_scores_are_those_of_the_reply_after_the_prompt_with_the_text(models, prompt, opening):
    """Token by token in float64, on a prompt put together here."""
    scene = Scene(models, prompt, opening=opening)
    model = AutoModelForCausalLM.from_pretrained(models["teacher"], dtype=torch.float64)
    scores, tokenizer = scene.private.score(scene.batch), scene.trainer.tokenizer
    for n in range(scene.batch.turns):
        member = next(
            m for g in scene.groups for m in g.members if m.id == scene.batch.ids_M[scene.batch.traj_N[n]]
        )
        turn = member.turns[int(scene.batch.index_N[n])]
        earlier = member.turns[: turn.index] if prompt is GROWING else ()
        own = [*(i for t in earlier for i in (*t.context_ids, *t.action.token_ids)), *turn.context_ids]
        # a message ends with the end token, a line break and the header of the reply; the text goes before it
        tail = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
        end = len(earlier[0].context_ids) if opening and earlier else len(own)
        assert own[end - len(tail) : end] == tail
        letters = [i for piece in ("open the <", "|im_end|> red door") for i in tokenizer.encode(piece)]
        context = [*own[: end - len(tail)], *tokenizer.encode("\n\n"), *letters, *own[end - len(tail) :]]
        ids = torch.tensor([[*context, *turn.action.token_ids]])
        logp_TV = model(input_ids=ids).logits[0].log_softmax(-1)
        said = torch.tensor(turn.action.token_ids)
        expected = logp_TV[len(context) - 1 : -1].gather(1, said[:, None])[:, 0]
        found = scores.logp_BT[scene.batch.turn_BT == n]
        assert torch.allclose(found.double(), expected, atol=1e-5)


@LAYOUTS
@PLACES
@pytest.mark.parametrize("budget", [1, 200, 10000])
def test_whole_distributions_stand_at_the_students_tokens(models, prompt, opening, budget):
    """The head's log-probs of the tokens on record are the scores, however the student's rows are cut."""
    some = lambda keys: {key: SECRET for number, key in enumerate(keys) if number % 3}
    scene = Scene(models, prompt, some, opening=opening, tokens_per_micro_batch=budget)
    expected, seen = scene.private.score(scene.batch).logp_BT, 0
    for micro in scene.student.micro_batches(scene.batch):
        head = scene.private.linear_head(micro)
        logp_XV = head.head.ready(scene.student.vocab_size, torch.float32).log_probs(head.hidden_ND, 1.0)[0]
        logp_X = logp_XV.gather(1, micro.token_X[:, None])[:, 0]
        signal_X = micro.pick(scene.rows.signal_BT)
        seen += int(signal_X.sum())
        assert torch.allclose(logp_X[signal_X], micro.pick(expected)[signal_X], atol=1e-5)
        assert float(head.hidden_ND[~signal_X].abs().sum()) == 0.0
    assert 0 < seen == int(scene.rows.signal_BT.sum()) < int(scene.batch.mask_BT.sum())


def test_an_idle_micro_batch_has_no_tokens_and_a_head(models):
    from agentbench.trainers.batch.micro import idle_micro

    scene = Scene(models, GROWING)
    assert scene.private.linear_head(idle_micro(scene.batch.pad_id)).hidden_ND.shape[0] == 0


@LAYOUTS
def test_rows_hold_the_students_very_ids_and_nothing_of_the_student_changes(models, prompt):
    scene = Scene(models, prompt)
    again = scene.trainer.collate(scene.groups)
    old = scene.student.score(again)
    scene.private.score(scene.batch)
    assert torch.equal(scene.batch.tokens_BT, again.tokens_BT)
    assert torch.equal(scene.student.score(scene.batch).logp_BT, old.logp_BT)
    assert torch.equal(
        scene.rows.to_student(scene.rows.batch.tokens_BT)[scene.batch.mask_BT],
        scene.batch.tokens_BT[scene.batch.mask_BT],
    )
    # the text reaches no row of the student
    spelled = "red door"
    assert all(spelled not in scene.trainer.tokenizer.decode(row) for row in scene.batch.tokens_BT)
    assert all(spelled in scene.trainer.tokenizer.decode(row) for row in scene.rows.batch.tokens_BT)


@pytest.mark.parametrize("texts", ["one", "of the turn"])
def test_an_episode_is_one_row_where_its_prompts_extend_each_other(models, texts):
    """A text that changes from turn to turn costs a row for each."""
    say = {"one": lambda key: SECRET, "of the turn": lambda key: f"{SECRET} {key[1]}"}[texts]
    scene = Scene(models, GROWING, lambda keys: {key: say(key) for key in keys}, opening=True)
    members = [m for g in scene.groups for m in g.members]
    expected = len(members) if texts == "one" else scene.batch.turns
    assert len(members) < scene.batch.turns
    assert len(scene.rows.batch.tokens_BT) == expected
    own = int((scene.batch.length_B - scene.batch.mask_BT.sum(dim=1)).sum())
    if texts == "one":  # each row holds the student's row and the text once
        pieces = ("\n\n", "open the <", "|im_end|> red door")
        added = sum(len(scene.trainer.tokenizer.encode(piece)) for piece in pieces)
        assert int(scene.rows.prompt_tokens().sum()) - own == len(members) * added


def test_what_the_text_spells_steers_nothing(models):
    """An end-of-turn marker in a private text is text: the row has as many markers as the student's prompt."""
    scene = Scene(models, FRESH)
    end = scene.trainer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain = Scene(models, FRESH, lambda keys: dict.fromkeys(keys, ""))
    assert int((scene.rows.batch.tokens_BT == end).sum()) == int((plain.rows.batch.tokens_BT == end).sum())


@LAYOUTS
def test_turns_without_a_text_count_in_neither_loss_nor_denominator(models, prompt):
    """The gradient equals that of the float64 mean over the tokens that have a text, by hand."""
    scene = Scene(models, prompt, lambda keys: dict.fromkeys(keys[::2], SECRET), max_grad_norm=1e9)
    teacher_BT = scene.private.score(scene.batch).logp_BT
    keep_BT = scene.rows.signal_BT
    assert 0 < int(keep_BT.sum()) < int(scene.batch.mask_BT.sum())
    objective = TokenObjective(lambda logp_X, teacher_X: logp_X * (1.0 + teacher_X), (teacher_BT,))
    ours = descended(scene, objective, keep_BT)
    model = AutoModelForCausalLM.from_pretrained(models["student"], dtype=torch.float64)
    logp_BT, _ = naive(model, scene.batch, 1.0, scene.student.vocab_size)
    loss = (logp_BT * (1.0 + teacher_BT.double()))[keep_BT].sum() / int(keep_BT.sum())
    loss.backward()
    assert_close(ours, {name: p.grad for name, p in model.named_parameters()})


def descended(scene, objective, keep_BT):
    found = {}

    def capture():
        for name, parameter in scene.student.net.plain.named_parameters():
            found[name] = parameter.grad.detach().double().clone()

    scene.student.optimizer.step = capture
    scene.trainer.descend(scene.batch, objective, reduction="token_mean", step=0, keep_BT=keep_BT)
    return found


@LAYOUTS
@pytest.mark.parametrize("kind", ["top_k", "full"])
def test_divergences_work_unchanged_on_a_private_teacher(models, prompt, kind):
    """Against the float64 divergence of the teacher's and the student's rows, token by token."""
    scene = Scene(models, prompt, lambda keys: dict.fromkeys(keys[1::2], SECRET), max_grad_norm=1e9)
    size, keep_BT = scene.student.vocab_size, scene.rows.signal_BT
    if kind == "full":
        objective = FullVocabulary(scene.private, "jsd")
    else:
        objective = TopK(
            scene.private.score(scene.batch, size), "jsd", "renormalise"
        )  # all ids: the same value
    ours = descended(scene, objective, keep_BT)
    student = AutoModelForCausalLM.from_pretrained(models["student"], dtype=torch.float64)
    teacher = AutoModelForCausalLM.from_pretrained(models["teacher"], dtype=torch.float64)
    q_BTV = student(input_ids=scene.batch.tokens_BT).logits[..., :size].log_softmax(-1)
    p_PSV = teacher(input_ids=scene.rows.batch.tokens_BT).logits[..., :size].log_softmax(-1).detach()
    row, column = keep_BT.nonzero(as_tuple=True)
    theirs = scene.rows.batch.mask_BT.nonzero(as_tuple=True)
    q_XV = q_BTV[row, column - 1]
    p_XV = p_PSV[theirs[0], theirs[1] - 1][scene.rows.number_BT[keep_BT]]
    m_XV = (0.5 * (q_XV.exp() + p_XV.exp())).log()
    jsd_X = 0.5 * (p_XV.exp() * (p_XV - m_XV)).sum(-1) + 0.5 * (q_XV.exp() * (q_XV - m_XV)).sum(-1)
    jsd_X.mean().backward()
    assert_close(ours, {name: p.grad for name, p in student.named_parameters()}, 1e-4)


def test_a_prompt_that_does_not_fit_names_task_and_turn_and_is_never_cut(models):
    with pytest.raises(
        TrainingError, match=r"task 'task 0', episode '0/0/0', turn 0: .* more than the 20 that"
    ):
        Scene(models, GROWING, limit=20)


def test_a_prompt_on_record_that_cannot_be_written_again_is_refused(models):
    scene = Scene(models, GROWING)
    first = scene.groups[0].members[0]
    other = replace(first, turns=(replace(first.turns[0], observation="elsewhere"), *first.turns[1:]))
    groups = [Group(first.task, 0, (other,))]
    with pytest.raises(TrainingError, match=r"turn 0: the prompt on record is not the one that env.prompt"):
        private_rows(groups, scene.trainer.collate(groups), {(first.id, 0): "x"}, scene.reader, 999)


def test_a_text_for_no_turn_is_refused(models):
    scene = Scene(models, GROWING)
    with pytest.raises(ContractError, match="belongs to no turn"):
        private_rows(scene.groups, scene.batch, {("nobody", 3): "x"}, scene.reader, 999)


def test_turns_that_are_not_trained_need_no_row(models):
    scene = Scene(models, GROWING)
    first = scene.groups[0].members[0]
    others = [
        Group(g.key, 0, tuple(replace(m, end="error", error=None) if m is first else m for m in g.members))
        for g in scene.groups
    ]
    batch = scene.trainer.collate(others)
    rows = private_rows(others, batch, scene.texts, scene.reader, 999)
    assert torch.equal(rows.signal_BT, batch.mask_BT)
    assert len(rows.batch.tokens_BT) == scene.batch.turns - len(first.turns)
    # and what nobody read is not kept as read
    assert set(rows.read(scene.texts)) == {key for key in scene.texts if key[0] != first.id}


def test_no_text_at_all_is_no_signal(models):
    scene = Scene(models, GROWING, lambda keys: {})
    scores = scene.private.score(scene.batch)
    assert float(scores.logp_BT.abs().sum()) == 0.0
    assert not scene.rows.signal_BT.any()
    objective = FullVocabulary(scene.private, "reverse_kl")
    done = scene.trainer.descend(
        scene.batch, objective, reduction="token_mean", step=0, keep_BT=scene.rows.signal_BT
    )
    assert done.updates == 0


def test_where_decides_the_side_of_the_message(models):
    scene = Scene(models, FRESH)
    turn = scene.groups[0].members[0].turns[0]
    texts = {}
    for where in ("before", "after"):
        reader = teacher_reader(scene.run, scene.trainer, where=where)
        ids = reader.prompt_ids(scene.groups[0].members[0], turn, "SKILL")
        texts[where] = scene.trainer.tokenizer.decode(ids)
    seen = turn.observation
    assert f"<|im_start|>user\nSKILL\n\n{seen}<|im_end|>" in texts["before"]
    assert f"<|im_start|>user\n{seen}\n\nSKILL<|im_end|>" in texts["after"]


def test_a_remote_teacher_has_no_whole_distribution(models):
    class Remote:
        max_context = 999

        def score(self, batch, top_k=0):
            return TeacherScores(torch.ones(batch.tokens_BT.shape))

    scene = Scene(models, GROWING)
    private = PrivateTeacher(Remote(), scene.rows)
    assert torch.equal(private.score(scene.batch).logp_BT, 1.0 * scene.batch.mask_BT)
    with pytest.raises(UsageError, match="needs a teacher in this process"):
        private.linear_head(scene.student.micro_batches(scene.batch)[0])
