"""What the adapter relies on in vLLM: one behaviour per test, so that a new version shows what it changes."""

import gc
import importlib.util

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from vllm_cases import ask, load, scaled, score_error, some_ids  # noqa: E402

from agentbench.engine import sample  # noqa: E402
from agentbench.engines.vllm import worker as vllm_worker  # noqa: E402
from agentbench.engines.vllm.adapter import SUPPORTED, check_version, generation, on_cpu, scoring  # noqa: E402
from agentbench.errors import MissingDependency, UsageError  # noqa: E402
from agentbench.models.tiny import make_model, make_tokenizer  # noqa: E402
from agentbench.types import SamplingParams  # noqa: E402


def run(backend, *requests):
    """Add (id, ids, parameters) to the backend and step until all are finished; pieces by id, in order."""
    pieces = {}
    for id, ids, parameters in requests:
        pieces[id] = []
        backend.add(id, ids, parameters)
    while not all(found and found[-1].finish for found in pieces.values()):
        for piece in backend.step():
            pieces[piece.id].append(piece)
    return pieces


def replying(room, end_ids=(258,), **settings):
    return generation(SamplingParams(**settings), seed=1, room=room, end_ids=end_ids)


def test_the_installed_version_is_a_supported_one():
    import vllm

    assert check_version() == vllm.__version__
    assert SUPPORTED[0] <= vllm.__version_tuple__[:2] < SUPPORTED[1]


@pytest.mark.parametrize("version", [(0, 31, 9), (0, 34, 0), (1, 0, 0)])
def test_other_versions_are_refused_in_one_line(monkeypatch, version):
    import vllm

    monkeypatch.setattr(vllm, "__version_tuple__", version)
    monkeypatch.setattr(vllm, "__version__", ".".join(map(str, version)))
    with pytest.raises(UsageError, match=r"vllm .* is installed; supported is >=0.32,<0.34"):
        check_version()


def test_an_absent_vllm_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"agentbench-opd\[vllm\]"):
        check_version()


def test_every_step_brings_one_token_and_one_logprob_of_each_running_reply(tied):
    pieces = run(tied._backend, ("x", some_ids(5), replying(4, min_new_tokens=4)))["x"]
    assert [len(piece.token_ids) for piece in pieces] == [1, 1, 1, 1]
    assert [len(piece.logprobs) for piece in pieces] == [1, 1, 1, 1]
    assert [piece.finish for piece in pieces] == ["", "", "", "length"]


def test_only_the_end_tokens_given_end_a_reply_and_they_are_among_its_ids(tied):
    (whole,) = sample(tied, [ask("w", some_ids(5), temperature=0.0, max_new_tokens=6, min_new_tokens=6)])
    at = next(at for at in range(1, 6) if whole.token_ids[at] not in whole.token_ids[:at])
    stopping = replying(6, end_ids=(whole.token_ids[at],), temperature=0.0)
    pieces = run(tied._backend, ("x", some_ids(5), stopping))["x"]
    assert [piece.token_ids[0] for piece in pieces] == whole.token_ids[: at + 1]
    assert pieces[-1].finish == "stop"


def test_an_engine_that_goes_leaves_the_others_working(tied, folders, reference):
    from agentbench.engines.vllm.opening import build

    other = build(str(folders["untied"]), slots=2)
    del other
    gc.collect()
    with pytest.raises(UsageError):
        build(str(folders["untied"]), cache_bytes=1000)
    gc.collect()
    assert score_error(reference, tied, some_ids(40)) < 1e-4


def test_prompt_logprobs_come_flat_the_token_first_and_never_from_the_cache(tied):
    ids = some_ids(100, 9)
    run(tied._backend, ("warm", ids, replying(1)))
    (piece,) = run(tied._backend, ("x", ids, scoring(3)))["x"]
    assert piece.cached_tokens == 0
    assert piece.scores.shape == piece.score_ids.shape == (99, 4)
    assert piece.score_ids[:, 0].tolist() == ids[1:]
    best_first = piece.scores[:, 1:]
    assert (best_first[:, :-1] >= best_first[:, 1:]).all()


def test_a_whole_vocabulary_of_logprobs_is_allowed(tied):
    (piece,) = run(tied._backend, ("x", [5, 6, 7], scoring(259)))["x"]
    assert torch.from_numpy(piece.scores[:, 1:]).exp().sum(-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_the_prefix_cache_shares_blocks_of_32_tokens_and_can_be_dropped(tied):
    backend, ids = tied._backend, some_ids(100, 55)
    cached = [run(backend, (name, ids, replying(1)))[name][0].cached_tokens for name in ("a", "b")]
    backend.drop_cache()
    cached.append(run(backend, ("c", ids, replying(1)))["c"][0].cached_tokens)
    assert cached == [0, 96, 0]  # 100 // 32 = 3 blocks


def test_aborted_requests_are_not_heard_of_again(tied):
    tied._backend.add("gone", some_ids(5), replying(300, min_new_tokens=300))
    tied._backend.step()
    tied._backend.abort(["gone", "never was"])
    pieces = run(tied._backend, ("x", some_ids(5), replying(3, min_new_tokens=3)))
    assert set(pieces) == {"x"}


@pytest.mark.skipif(
    not on_cpu() if importlib.util.find_spec("vllm") else True, reason="packed heads are of the CPU"
)
def test_on_cpu_a_reload_alone_leaves_a_tied_head_stale(tied, folders, monkeypatch):
    """When this fails, vLLM has mended it, and `repack_heads` can go."""
    model = scaled(load(folders["tied"]), 1.3)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_worker, "repack_heads", lambda model: None)
        tied.load_weights(model.named_parameters())
        assert score_error(model, tied, some_ids(40)) > 0.1
    tied.load_weights(model.named_parameters())
    assert score_error(model, tied, some_ids(40)) < 1e-4
    tied.load_weights(load(folders["tied"]).named_parameters())


@pytest.mark.skipif(
    not on_cpu() if importlib.util.find_spec("vllm") else True, reason="head sizes of the CPU kernels"
)
def test_a_model_that_vllm_can_load_but_not_compute_is_refused_at_the_start(tmp_path):
    from agentbench.engines.vllm.opening import build

    make_model(
        tmp_path, make_tokenizer(tmp_path, []), hidden=32, layers=1, heads=2, kv_heads=1
    )  # head size 16
    with pytest.raises(UsageError, match=r"cannot compute with it: .*head_dim=16.*use engine: hf"):
        build(str(tmp_path))
