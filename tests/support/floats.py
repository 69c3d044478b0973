"""How tests compare what models compute: ids are equal, log-probs agree to 1e-5 nats.

A batched product of floats is summed in another order for another width, shape, instruction set or machine, so its
bits may differ while every id is the same. Bits may be compared only where both sides ran the same shapes in the same
process.
"""

from dataclasses import replace

import pytest

NATS = 1e-5


def assert_same_actions(ours, theirs):
    """Everything equal but log-probs, which agree to 1e-5 nats."""
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine.token_ids) == list(other.token_ids)
        assert list(mine.logprobs) == pytest.approx(list(other.logprobs), abs=NATS)
        assert bare(mine) == bare(other)


def bare(action):
    """The action without its numbers."""
    return replace(action, token_ids=(), logprobs=())
