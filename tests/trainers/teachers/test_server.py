import json

import pytest
import torch
import yaml
from places import FAKE_ENDPOINT
from spoken import FRESH, GROWING, prompted, spoken_groups
from trainer_cases import make_run, make_student, random_groups

from agentbench.cli.training import main
from agentbench.engines import http as http_client
from agentbench.errors import ConfigError, TrainingError, UsageError
from agentbench.models.vocabulary import vocabulary_of
from agentbench.registry import load
from agentbench.trainers.base import Algorithm
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.gkd import SPEC
from agentbench.trainers.teachers.contexts import PrivateTeacher, private_rows, teacher_reader
from agentbench.trainers.teachers.open import open_teacher
from agentbench.trainers.teachers.server import ServerTeacher
from agentbench.training.config import TeacherConfig

FAKE = f"{FAKE_ENDPOINT}"
FakeServer, distribution = (load("envs", f"{FAKE}:{name}") for name in ("FakeServer", "distribution"))
COMPLETIONS = "/v1/completions"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(http_client, "_FIRST_WAIT", 0.01)


@pytest.fixture
def server(models):
    with FakeServer(["teacher"], max_model_len=200) as running:
        running.tokenizer = models["tokenizer"]
        yield running


@pytest.fixture
def student(models):
    return make_student(models)


def connect(server, student, **values):
    config = TeacherConfig(model_name_or_path="teacher", backend="server", base_url=server.url, **values)
    return open_teacher(config, student)


def toy_scores(batch):
    """Log-probs of the toy model for every trained token, 0 elsewhere."""
    expected = torch.zeros(batch.tokens_BT.shape)
    for b, t in batch.mask_BT.nonzero().tolist():
        last, token = batch.tokens_BT[b, t - 1 : t + 1].tolist()
        expected[b, t] = distribution(last)[token]
    return expected


def test_every_trained_token_has_the_servers_logprob(server, student):
    batch = collate(random_groups(250, fresh=True), student.pad_id)
    teacher = connect(server, student)
    assert isinstance(teacher, ServerTeacher)
    scores = teacher.score(batch)
    assert torch.allclose(scores.logp_BT, toy_scores(batch), atol=1e-6)
    assert scores.entropy_BT is None
    assert scores.topk_ids_BTK is None
    assert (batch.mask_BT.sum(1) > 0).all()


@pytest.mark.parametrize("prompt", [GROWING, FRESH], ids=["growing", "fresh"])
def test_a_private_context_is_scored_through_the_server_as_beside_the_student(
    server, student, models, prompt
):
    """The toy server sees a reply's first token after the private prompt's end, the others after each other."""
    trainer = Algorithm(prompted(make_run(models, "opd"), prompt))
    groups = spoken_groups(trainer.run, trainer.tokenizer)
    batch = trainer.collate(groups)
    texts = {(m.id, t.index): "read this" for g in groups for m in g.members[:2] for t in m.turns}
    teacher = connect(server, student)
    assert teacher.max_context == 199
    rows = private_rows(groups, batch, texts, teacher_reader(trainer.run, trainer), teacher.max_context)
    scores = PrivateTeacher(teacher, rows).score(batch, 3)
    assert torch.allclose(scores.logp_BT, rows.to_student(toy_scores(rows.batch)), atol=1e-6)
    assert float(scores.logp_BT[~rows.signal_BT].abs().sum()) == 0.0
    asked = [body["prompt"] for body in server.bodies(COMPLETIONS)[-len(rows.batch.tokens_BT) :]]
    lengths = rows.batch.length_B.tolist()
    assert sorted(asked) == sorted(
        row[:n] for row, n in zip(rows.batch.tokens_BT.tolist(), lengths, strict=True)
    )
    ids_XK = scores.topk_ids_BTK[rows.signal_BT]
    assert ids_XK.shape[1] == 3
    assert len(set(map(tuple, ids_XK.tolist()))) > 1


def test_rows_are_sent_as_ids_up_to_their_last_trained_token(server, student):
    batch = collate(random_groups(250, groups=1, members=1), student.pad_id)
    connect(server, student).score(batch)
    last = int(batch.mask_BT[0].nonzero()[-1])
    body = server.bodies(COMPLETIONS)[-1]
    assert body == {
        "model": "teacher",
        "prompt": batch.tokens_BT[0, : last + 1].tolist(),
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
    }


def test_the_likeliest_ids_come_best_first(server, student):
    batch = collate(random_groups(250), student.pad_id)
    scores = connect(server, student).score(batch, 3)
    b, t = batch.mask_BT.nonzero()[-1].tolist()
    known = torch.tensor(distribution(int(batch.tokens_BT[b, t - 1])))
    best = known.topk(3)
    assert torch.allclose(scores.topk_logp_BTK[b, t], best.values, atol=1e-6)
    assert torch.allclose(known[scores.topk_ids_BTK[b, t]], best.values, atol=1e-6)
    assert torch.allclose(scores.logp_BT, toy_scores(batch), atol=1e-6)
    assert not scores.topk_logp_BTK[~batch.mask_BT].any()


def test_rows_already_scored_are_not_asked_for_again(server, student):
    batch = collate(random_groups(250), student.pad_id)
    teacher = connect(server, student)
    first = teacher.score(batch)
    asked = len(server.bodies(COMPLETIONS))
    assert torch.equal(teacher.score(batch).logp_BT, first.logp_BT)
    assert len(server.bodies(COMPLETIONS)) == asked
    assert teacher.cached_rows == len(batch.tokens_BT)
    teacher.score(batch, 2)  # other scores of the same rows
    assert len(server.bodies(COMPLETIONS)) == asked + len(batch.tokens_BT)


def test_memory_for_scores_is_bounded(server, student):
    batch = collate(random_groups(250), student.pad_id)
    rows = [int(row.nonzero()[-1]) for row in batch.mask_BT]  # tokens with a score
    room = 4 * (rows[-1] + rows[-2])  # float32; of K = 0 nothing else is kept
    teacher = connect(server, student, engine_options={"cache_bytes": room})
    teacher.score(batch)
    asked = len(server.bodies(COMPLETIONS))
    teacher.score(batch)
    assert teacher._cache.size <= room
    assert 0 < teacher.cached_rows < len(rows)
    assert len(server.bodies(COMPLETIONS)) == asked + len(rows) - teacher.cached_rows


def test_faults_are_retried_and_change_no_score(server, student):
    batch = collate(random_groups(250), student.pad_id)
    teacher = connect(server, student)
    malformed = (200, {}, {"choices": [{"prompt_logprobs": [None]}]})
    server.faults[COMPLETIONS] = [
        "die",
        (503, {}, {}),
        "truncated",
        malformed,
        (429, {"Retry-After": "0"}, {}),
    ]
    assert torch.allclose(teacher.score(batch).logp_BT, toy_scores(batch), atol=1e-6)
    kinds = {name: count for name, count in teacher.usage.items() if name.startswith("retries")}
    assert kinds == {
        "retries_connection": 1,
        "retries_malformed": 2,
        "retries_rate_limit": 1,
        "retries_server_error": 1,
    }


def test_a_teacher_that_cannot_be_reached_stops_the_run(server, student):
    batch = collate(random_groups(250), student.pad_id)
    teacher = connect(server, student, engine_options={"retries": 1})
    server.stop()
    with pytest.raises(TrainingError, match=rf"teacher 'teacher' at {server.url} could not score a row"):
        teacher.score(batch)


def test_one_refused_row_stops_the_run(server, student):
    batch = collate(random_groups(250), student.pad_id)
    teacher = connect(server, student)
    server.faults[COMPLETIONS] = [None, (400, {}, {"error": {"message": "bad ids"}})]
    with pytest.raises(TrainingError, match="400: bad ids"):
        teacher.score(batch)


def test_rows_that_leave_no_room_are_refused(server, student):
    teacher = connect(server, student)
    teacher.server.max_model_len = 10
    with pytest.raises(TrainingError, match="exceed the max_model_len 10"):
        teacher.score(collate(random_groups(250), student.pad_id))


def test_likely_ids_outside_the_tokenizer_are_refused(server, student):
    batch = collate(random_groups(250), student.pad_id)
    teacher = connect(server, student)
    teacher.vocabulary = vocabulary_of(range(100), 100)
    with pytest.raises(TrainingError, match="padding of its head"):
        teacher.score(batch, 20)
    with pytest.raises(UsageError, match=r"top_k = 101 must lie in 1\.\.100"):
        teacher.score(batch, 101)


# --- checks at the start ----------------------------------------------------------------------------------------------


def test_another_temperature_is_refused(server, models):
    with pytest.raises(UsageError, match="scores at temperature 1, but"):
        connect(server, make_student(models, temperature=0.5))


def test_another_tokenizer_is_refused_and_one_that_is_not_shown_passes(server, student):
    server.faults["/tokenize"] = [(404, {}, {"detail": "Not Found"})]
    connect(server, student)
    server.shift = 1
    with pytest.raises(UsageError, match="splits text into other tokens"):
        connect(server, student)


def test_another_model_is_refused(server, student):
    server.models = ["someone else"]
    with pytest.raises(UsageError, match="does not serve 'teacher'; it serves someone else"):
        connect(server, student)


def test_more_likely_ids_than_the_server_gives_are_refused_before_training(server, models):
    run = make_run(models, "gkd", trainer={"support": "top_k", "k": 30})
    teacher = TeacherConfig(model_name_or_path="teacher", backend="server", base_url=server.url)
    run = run.model_copy(update={"teachers": (teacher,)})
    settings = SPEC.config(support="top_k", k=30)
    with pytest.raises(UsageError, match="--for teacher --top-k 30"):
        SPEC.build(run, settings)
    server.max_logprobs = 30
    assert isinstance(SPEC.build(run, settings).teacher, ServerTeacher)


def test_the_full_vocabulary_needs_a_local_teacher(server, models):
    teacher = TeacherConfig(model_name_or_path="teacher", backend="server", base_url=server.url)
    run = make_run(models, "gkd").model_copy(update={"teachers": (teacher,)})
    with pytest.raises(UsageError, match="needs a teacher with backend 'hf', not 'server'"):
        SPEC.build(run, SPEC.config())


def test_a_server_whose_weights_were_replaced_is_no_teacher(server, student):
    server.trains, server.version = True, "digest-3"
    with pytest.raises(UsageError, match="has had other weights pushed to it"):
        connect(server, student)


@pytest.mark.parametrize(("key", "value"), [("dtype", "bfloat16"), ("revision", "main")])
def test_keys_that_the_server_decides_are_refused(server, student, key, value):
    with pytest.raises(UsageError, match=f"teachers.{key} = '{value}' would be ignored"):
        connect(server, student, **{key: value})


def test_unknown_options_are_refused(server, student):
    with pytest.raises(ConfigError, match="cache_byte"):
        connect(server, student, engine_options={"cache_byte": 1})


# --- in a run ---------------------------------------------------------------------------------------------------------


def write_config(models, output, server):
    config = {
        "algorithm": "opd",
        "output_dir": str(output),
        "model_name_or_path": models["student"],
        "teachers": [
            {
                "model_name_or_path": "teacher",
                "backend": "server",
                "base_url": server.url,
                "engine_options": {"retries": 0},
            }
        ],
        "env": {
            "name": "corridor",
            "split": "train",
            "prompt": "agentbench.prompts:corridor/transcript",
            "max_turns": 2,
        },
        "rollout": {"tasks_per_step": 2, "group_size": 2, "concurrency": 4, "max_new_tokens": 4},
        "max_steps": 3,
        "learning_rate": 0.01,
        "save_steps": 1,
    }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    return path


def metrics(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "seconds" not in name} for line in lines]


def test_a_run_whose_teacher_dies_stops_and_resumes_to_the_same_numbers(server, models, tmp_path):
    server.max_model_len = 400
    main(write_config(models, tmp_path / "calm", server), [])
    config = write_config(models, tmp_path / "disturbed", server)
    died = (500, {}, {"error": {"message": "gone"}})
    # the probe, four rows of the first step, two of the second
    server.faults[COMPLETIONS] = [None] * 7 + [died] * 9
    with pytest.raises(TrainingError, match=r"could not score a row.*gone"):
        main(config, [])
    assert len(metrics(tmp_path / "disturbed")) == 1
    server.faults[COMPLETIONS] = []
    main(config, [], resume=True)
    assert metrics(tmp_path / "disturbed") == metrics(tmp_path / "calm")
