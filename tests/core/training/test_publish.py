"""After every push of weights, engine and trainer must agree on a probe."""

import pytest

from agentbench.errors import TrainingError
from agentbench.training.publish import publish


class Engine:
    max_context = 8

    def __init__(self, stale):
        self.stale = stale
        self.weight = 0.0
        self.info = {"name": "toy"}
        self.tokenizer = self

    def encode(self, text, add_special_tokens):
        return [1, 2, 3]

    def load_weights(self, named):
        if not self.stale:
            self.weight = dict(named)["w"]

    def score(self, token_ids):
        return [self.weight * token for token in token_ids[1:]]


class Trainer:
    def weights(self):
        return [("w", 0.5)]

    def score_tokens(self, token_ids):
        return [0.5 * token for token in token_ids[1:]]


def test_an_engine_with_the_new_weights_passes():
    assert publish(Engine(stale=False), Trainer(), [], 3, 0.05) == 0.0


def test_an_engine_that_kept_its_old_weights_stops_the_run():
    # |0 - 0.5 * 2| and |0 - 0.5 * 3|, averaged: 1.25
    with pytest.raises(TrainingError, match=r"step 3: .*'toy' gives log-probs 1\.25 nats a token"):
        publish(Engine(stale=True), Trainer(), [], 3, 0.05)


def test_nobody_looks_without_a_tolerance():
    assert publish(Engine(stale=True), Trainer(), [], 3, None) is None


def test_not_a_number_is_no_agreement():
    engine = Engine(stale=False)
    engine.score = lambda token_ids: [float("nan")] * (len(token_ids) - 1)
    with pytest.raises(TrainingError, match="gives log-probs nan"):
        publish(engine, Trainer(), [], 0, 0.05)


def test_an_engine_that_cannot_score_is_not_checked():
    class Mute:
        def load_weights(self, named):
            self.seen = dict(named)

    mute = Mute()
    assert publish(mute, Trainer(), [], 0, 0.05) is None
    assert mute.seen == {"w": 0.5}
