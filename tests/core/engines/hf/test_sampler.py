"""Drawing tokens: hand-worked distributions, the published generator, and rows that do not see each other."""

import math

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from agentbench.engines.hf.sampler import ChoiceTable, RowSettings, _mix, sample_rows, uniforms
from agentbench.types import SamplingParams

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

PROBS = [0.5, 0.3, 0.15, 0.05]
NO_END = torch.tensor([3])


def draw(probs, rows, *, first_seed=0, **sampling):
    settings = RowSettings.empty(rows)
    for row in range(rows):
        settings.put(row, SamplingParams(**sampling), first_seed + row, 100)
    logits = torch.tensor(probs, dtype=torch.float64).log().float().expand(rows, -1) + 3.0
    ids, logps = sample_rows(logits, settings, end_ids=NO_END)
    return ids.numpy(), logps.numpy()


def check(ids, logps, expected):
    """Frequencies and log-probs are those of the expected distribution."""
    assert set(ids) == {token for token, p in enumerate(expected) if p}
    wanted = np.array([math.log(expected[token]) for token in ids])
    np.testing.assert_allclose(logps, wanted, atol=1e-6)
    kept = [p for p in expected if p]
    if len(kept) == 1:
        return
    counts = np.bincount(ids, minlength=len(expected))[[i for i, p in enumerate(expected) if p]]
    assert chisquare(counts, np.array(kept) * len(ids)).pvalue > 1e-3


def test_generator_is_splitmix64():
    # published outputs of SplitMix64 for seed 1234567: output n is a hash of seed + n * gamma
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + n * gamma) % 2**64 for n in (1, 2, 3)], np.uint64)
    assert _mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("by_seed", [True, False])
def test_uniforms_are_uniform_over_seeds_and_over_positions(by_seed):
    count = np.arange(20_000)
    zeros = np.zeros(20_000, np.int64)
    drawn = uniforms((count if by_seed else zeros).astype(np.uint64), zeros if by_seed else count)
    assert kstest(drawn, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.03  # 4 standard errors of 1/sqrt(20000)
    assert 0 < drawn.min() < drawn.max() < 1


def test_plain_sampling_follows_softmax():
    check(*draw(PROBS, 20_000), PROBS)


def test_temperature_raises_probabilities_to_its_inverse():
    # T = 1/2 squares: 25, 9, 2.25, 0.25 of 36.5
    check(*draw(PROBS, 20_000, temperature=0.5), [25 / 36.5, 9 / 36.5, 2.25 / 36.5, 0.25 / 36.5])


def test_top_k_keeps_k_and_renormalises():
    check(*draw(PROBS, 20_000, top_k=2), [5 / 8, 3 / 8, 0, 0])
    check(*draw(PROBS, 5_000, top_k=99), PROBS)


def test_top_p_keeps_the_fewest_that_reach_it():
    # before each token: 0, 0.5, 0.8, 0.95; those below 0.75 stay
    check(*draw(PROBS, 20_000, top_p=0.75), [5 / 8, 3 / 8, 0, 0])
    check(*draw(PROBS, 100, top_p=0.01), [1, 0, 0, 0])


def test_top_p_is_taken_of_what_top_k_left():
    # top-k 3 leaves 50/95, 30/95, 15/95: before each token 0, 0.526, 0.842; those below 0.6 stay
    check(*draw(PROBS, 20_000, top_k=3, top_p=0.6), [5 / 8, 3 / 8, 0, 0])


def test_greedy_takes_the_likeliest_and_reports_temperature_one():
    ids, logps = draw(PROBS, 3, temperature=0.0, top_k=2, top_p=0.1)
    assert ids.tolist() == [0, 0, 0]
    np.testing.assert_allclose(logps, math.log(0.5), atol=1e-6)


def test_end_tokens_wait_for_min_new_tokens():
    # without token 3 the others have 50, 30, 15 of 95
    check(*draw(PROBS, 20_000, min_new_tokens=1), [50 / 95, 30 / 95, 15 / 95, 0])
    settings = RowSettings.empty(1)
    settings.put(0, SamplingParams(min_new_tokens=1), 0, 100)
    settings.position[0] = 1
    logits = torch.tensor([[0.0, 0.0, 0.0, 99.0]])
    assert sample_rows(logits, settings, end_ids=NO_END)[0].tolist() == [3]


def test_rows_with_different_settings_do_not_see_each_other():
    options = [
        {},
        {"temperature": 0.0},
        {"temperature": 0.3},
        {"top_k": 2},
        {"top_p": 0.6},
        {"min_new_tokens": 2},
    ]
    logits = torch.randn(len(options), 50, generator=torch.Generator().manual_seed(0)) * 2

    def sample(rows):
        settings = RowSettings.empty(len(rows))
        for at, row in enumerate(rows):
            settings.put(at, SamplingParams(**options[row]), row, 9)
        return sample_rows(logits[rows], settings, end_ids=NO_END)

    together = sample(list(range(len(options))))
    for row in range(len(options)):
        alone = sample([row])
        assert alone[0][0] == together[0][row]
        assert abs(alone[1][0] - together[1][row]) < 1e-6


def test_logits_that_are_not_finite_give_nan():
    _, logps = sample_rows(torch.tensor([[0.0, float("nan")]]), _one_row(), end_ids=torch.tensor([1]))
    assert math.isnan(logps[0])


def _one_row():
    settings = RowSettings.empty(1)
    settings.put(0, SamplingParams(), 0, 9)
    return settings


def test_choice_table_walks_all_rows_at_once():
    table = ChoiceTable(3)
    table.put(0, [(5, 6, 9), (5, 7, 9), (8, 9)])
    table.put(2, [(1, 2, 3, 9)])
    rows = np.array([0, 1, 2])
    like = torch.zeros(3, 10)

    def allowed(positions):
        mask = table.allowed(rows, np.array(positions), like)
        return [torch.nonzero(row)[:, 0].tolist() for row in mask]

    everything = list(range(10))
    assert allowed([0, 0, 0]) == [[5, 8], everything, [1]]
    assert table.advance(rows, np.array([0, 0, 0]), np.array([5, 4, 1])).tolist() == [False] * 3
    assert allowed([1, 1, 1]) == [[6, 7], everything, [2]]
    assert table.advance(rows, np.array([1, 1, 1]), np.array([7, 4, 2])).tolist() == [False] * 3
    assert allowed([2, 2, 2]) == [[9], everything, [3]]
    assert table.advance(rows, np.array([2, 2, 2]), np.array([9, 4, 3])).tolist() == [True, False, False]
    table.put(0, None)
    assert allowed([0, 3, 3]) == [everything, everything, [9]]
    table.move(np.array([2]), 1)
    assert table.guided.tolist() == [True]
