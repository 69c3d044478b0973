"""Tiny models, hand-built episodes and float64 references for the tests of the trainers."""

import random
from dataclasses import replace

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agentbench.trainers.student.processes import Processes
from agentbench.trainers.student.student import Student
from agentbench.training.config import EnvConfig, RolloutConfig, TeacherConfig, TrainConfig
from agentbench.types import Action, Failure, Group, Trajectory, Turn

torch.set_num_threads(1)


def write_model(folder, tokenizer, *, seed=0, vocab=None, tie=True, hidden=32, layers=2, positions=256):
    """Save a random Qwen3-shaped model and its tokenizer; weights large enough that its distributions are not flat."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab or len(tokenizer),
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=positions,
        tie_word_embeddings=tie,
        initializer_range=0.15,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_run(models, algorithm, *, teacher="teacher", rollout=None, **values):
    """A run configuration around the tiny models; nothing in it is played."""
    teachers = (TeacherConfig(model_name_or_path=models[teacher]),) if teacher else ()
    rollout = {"tasks_per_step": 2, "group_size": 2, "max_new_tokens": 8} | (rollout or {})
    return TrainConfig(
        algorithm=algorithm,
        output_dir="unused",
        model_name_or_path=models["student"],
        env=EnvConfig(name="corridor", split="train"),
        rollout=RolloutConfig(**rollout),
        teachers=teachers,
        **({"learning_rate": 1e-2, "max_steps": 10} | values),
    )


def make_turn(
    index,
    context,
    said,
    *,
    reward=0.0,
    author="student",
    fresh=False,
    logprobs=None,
    label=None,
    penalty=0.0,
    **info,
):
    """One turn of given token ids; `label`: ids of what another author would have said."""
    logprobs = (0.0,) * len(said) if logprobs is None else logprobs
    return Turn(
        index=index,
        observation=info.pop("observation", f"seen {index}"),
        action=Action("", tuple(said), tuple(logprobs), author=author, finish=info.pop("finish", "stop")),
        env_action="",
        reward=reward,
        context_ids=tuple(context),
        fresh=fresh or index == 0,
        label=None if label is None else Action("", tuple(label), (0.0,) * len(label), author="expert"),
        penalty=penalty,
        info=info,
    )


def make_trajectory(key, turns, *, task="t", end="terminated"):
    """An episode of these turns; `end="error"` breaks it."""
    error = Failure("Boom", "broken", "env") if end == "error" else None
    return Trajectory(key, "corridor", task, 0, tuple(turns), None if error else True, 1.0, end, error=error)


def random_groups(vocab, *, seed=0, groups=2, members=3, max_turns=5, fresh=False):
    """Groups of random episodes with rewards 0 and 1 in every group."""
    rng = random.Random(seed)

    def ids(low, high):
        return [rng.randrange(vocab) for _ in range(rng.randint(low, high))]

    made = []
    for g in range(groups):
        episodes = []
        for s in range(members):
            count = rng.randint(3, max_turns)
            turns = [
                make_turn(k, ids(2, 6), ids(1, 5), fresh=fresh, observation=f"room {rng.randint(0, 2)}")
                for k in range(count)
            ]
            turns[-1] = replace(turns[-1], reward=float(s % 2))
            episodes.append(make_trajectory(f"{seed}/{g}/{s}", turns, task=f"task {g}"))
        made.append(Group(f"task {g}", 0, tuple(episodes)))
    return made


def student_weights(trainer):
    """A copy of every weight."""
    return {name: tensor.detach().clone() for name, tensor in trainer.weights()}


def same_weights(a, b):
    """Whether two copies are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradient(trainer, groups, step=0):
    """The gradient of one update, weights untouched; clipping must be off (a large max_grad_norm)."""
    found = {}
    named = dict(trainer.student.net.plain.named_parameters())

    def capture():
        for name, parameter in named.items():
            found[name] = parameter.grad.detach().double().clone()

    step_before = trainer.student.optimizer.step
    trainer.student.optimizer.step = capture
    try:
        trainer.update(groups, step)
    finally:
        trainer.student.optimizer.step = step_before
    return found


class Reference:
    """Student and teacher in float64, read token by token through their full logits."""

    def __init__(self, models):
        self.student = AutoModelForCausalLM.from_pretrained(models["student"], dtype=torch.float64)
        self.teacher = AutoModelForCausalLM.from_pretrained(models["teacher"], dtype=torch.float64)

    def log_probs(self, model, episode):
        """For each turn, the [A, V] log-probs at its tokens; one growing conversation, or fresh prompts."""
        turns, row, spans = [], [], []
        for turn in episode.turns:
            if turn.fresh and row:
                turns += self._read(model, row, spans)
                row, spans = [], []
            row += turn.context_ids
            spans.append((len(row), len(row) + len(turn.action.token_ids)))
            row += turn.action.token_ids
        return turns + self._read(model, row, spans)

    def _read(self, model, row, spans):
        logp_TV = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
        return [logp_TV[start - 1 : end - 1] for start, end in spans]

    def sampled(self, model, episode):
        """For each turn, the log-probs of its own tokens."""
        said = [torch.tensor(turn.action.token_ids) for turn in episode.turns]
        read = self.log_probs(model, episode)
        return [x.gather(1, ids[:, None])[:, 0] for x, ids in zip(read, said, strict=True)]

    def gradient(self, loss):
        """Gradient of a loss made with this reference."""
        self.student.zero_grad()
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in self.student.named_parameters()}


def assert_close(ours, theirs, tolerance=2e-5):
    """Compare two gradients relative to the largest entry of each tensor."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = float(expected.abs().max()) + 1e-9
        assert float((ours[name] - expected).abs().max()) <= tolerance * scale + 1e-9, name


def make_student(models, temperature=1.0, **values):
    return Student(make_run(models, "opd", **values), Processes(1), temperature=temperature)


def naive(model, batch, temperature, vocab):
    logits_BTV = model(input_ids=batch.tokens_BT).logits[..., :vocab] / temperature
    logp_BTV = logits_BTV.log_softmax(-1)
    logp_BT = torch.zeros(batch.tokens_BT.shape, dtype=logp_BTV.dtype)
    logp_BT[:, 1:] = logp_BTV[:, :-1].gather(2, batch.tokens_BT[:, 1:, None])[..., 0]
    entropy_BT = torch.zeros_like(logp_BT)
    entropy_BT[:, 1:] = -(logp_BTV.exp() * logp_BTV).sum(-1)[:, :-1]
    return logp_BT * batch.mask_BT, entropy_BT * batch.mask_BT
