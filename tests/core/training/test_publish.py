"""After every push of weights, engine and trainer must agree on the replies of the step."""

import math
from types import SimpleNamespace

import pytest

from agentbench.errors import TrainingError
from agentbench.trainer import Alone
from agentbench.training.publish import PROBE_ROWS, PROBE_TOKENS, Publisher
from agentbench.types import Action, Group, Trajectory, Turn


class Engine:
    """Scores token k as weight * k, and is `off[k]` away from that."""

    max_context = 4096

    def __init__(self, stale=False, off=None):
        self.stale, self.off = stale, off or {}
        self.weight = 0.5
        self.info = {"name": "toy"}
        self.tokenizer = self
        self.scored = []

    def encode(self, text, add_special_tokens):
        return [1, 2, 3]

    def load_weights(self, named):
        if not self.stale:
            self.weight = dict(named)["w"]

    def score(self, token_ids):
        self.scored.append(list(token_ids))
        return [-self.weight * token + self.off.get(token, 0.0) for token in token_ids[1:]]


class Trainer:
    weight = 0.5
    team = Alone()

    def weights(self):
        return [("w", self.weight)]

    def score_tokens(self, token_ids):
        return [-self.weight * token for token in token_ids[1:]]


def episode(*turns, name="e", growing=True):
    """Each turn: (context, reply, author)."""
    played = [
        Turn(
            n,
            "o",
            Action("", said, [0.0] * len(said), author=author),
            "x",
            0.0,
            context,
            not growing or not n,
        )
        for n, (context, said, author) in enumerate(turns)
    ]
    return Group("t", 0, (Trajectory(name, "toy", "t", 0, played, False, 0.0, "terminated"),))


ONE = [episode(([7, 8], [1, 2], "student"))]


def pushed(publisher, groups, step=3):
    publisher.before(groups, step)
    return publisher.push(groups, step)


def test_an_engine_with_the_new_weights_passes():
    assert pushed(Publisher(Engine(), Trainer(), 0.05), ONE) == 0.0


def test_an_engine_that_kept_its_old_weights_stops_the_run():
    trainer = Trainer()
    publisher = Publisher(Engine(stale=True), trainer, 0.05)
    assert pushed(publisher, ONE) == 0.0
    trainer.weight = 1.5
    # |1.5 - 0.5| * 1 and * 2, averaged: 1.5
    with pytest.raises(
        TrainingError, match=r"step 3: .*'toy' gives log-probs 1\.5 nats a token .*, and 0 before"
    ):
        pushed(publisher, ONE)


def test_prompts_do_not_count():
    engine = Engine(off={7: 9.0, 8: 9.0})
    assert pushed(Publisher(engine, Trainer(), 0.05), ONE) == 0.0
    assert engine.scored[0] == [7, 8, 1, 2]


def test_what_was_there_before_the_first_update_is_allowed_and_its_growth_is_not():
    engine = Engine(off={1: 0.3, 2: 0.1})
    publisher = Publisher(engine, Trainer(), 0.05)
    assert pushed(publisher, ONE) == pytest.approx(0.2)  # (0.3 + 0.1) / 2
    assert publisher.start == pytest.approx(0.2)
    engine.off = {1: 0.5, 2: 0.3}
    assert pushed(publisher, ONE) == pytest.approx(0.4)  # twice 0.2 and 0.05 are allowed
    engine.off = {1: 0.6, 2: 0.4}
    with pytest.raises(TrainingError, match=r"0\.5 nats a token .*, and 0\.2 before the first update"):
        pushed(publisher, ONE)
    assert publisher.start == pytest.approx(0.2)


def test_two_models_are_told_apart_before_anything_is_learnt():
    with pytest.raises(
        TrainingError, match=r"before any update, engine 'toy' gives log-probs 0\.7 .* \(0\.5 are"
    ):
        Publisher(Engine(off={1: 0.7, 2: 0.7}), Trainer(), 0.05).before(ONE, 0)


def test_words_of_others_count_by_their_probability_and_only_where_the_student_is_silent():
    engine = Engine(off={4: 0.1, 6: 1.0})
    expert = episode(([7], [4, 6], "expert"))
    # weights exp(-2) and exp(-3)
    wanted = (math.exp(-2) * 0.1 + math.exp(-3) * 1.0) / (math.exp(-2) + math.exp(-3))
    assert pushed(Publisher(engine, Trainer(), 0.05), [expert]) == pytest.approx(wanted)
    mixed = episode(([7], [4, 6], "expert"), ([8], [4], "student"))
    assert pushed(Publisher(engine, Trainer(), 0.05), [expert, mixed]) == pytest.approx(0.1)


def test_the_longest_replies_are_scored():
    engine = Engine()
    groups = [episode(([7, 8], [1] * size, "student"), name=str(size)) for size in (1, 5, 3, 2, 4)]
    Publisher(engine, Trainer(), 0.05).before(groups, 0)
    assert [len(row) - 2 for row in engine.scored] == [5, 4, 3, 2]


@pytest.mark.parametrize(("processes", "scored"), [(1, 1), (2, PROBE_ROWS)])
def test_every_process_scores_as_many_rows(processes, scored):
    trainer = Trainer()
    trainer.team = SimpleNamespace(count=processes)
    for groups in (ONE, []):
        engine = Engine()
        Publisher(engine, trainer, 0.05).before(groups, 0)
        assert len(engine.scored) == scored


@pytest.mark.parametrize(("longest", "kept"), [(4096, PROBE_TOKENS), (101, 100)])
def test_a_reply_after_a_long_prompt_is_looked_at(longest, kept):
    engine = Engine(off={2: 0.25})
    engine.max_context = longest
    long = episode(([9] * 3000, [1, 2], "student"), ([9] * 50, [], "student"))
    publisher = Publisher(engine, Trainer(), 0.05)
    publisher.before([long], 0)
    assert publisher.start == pytest.approx(0.125)
    assert engine.scored[0] == [9] * (kept - 2) + [1, 2]


def test_nobody_looks_without_a_tolerance():
    assert pushed(Publisher(Engine(off={1: 9.0}), Trainer(), None), ONE) is None


def test_not_a_number_is_no_agreement():
    engine = Engine()
    publisher = Publisher(engine, Trainer(), 0.05)
    publisher.before(ONE, 0)
    engine.off = {1: float("nan")}
    with pytest.raises(TrainingError, match="gives log-probs nan"):
        publisher.push(ONE, 0)
    with pytest.raises(TrainingError, match="before any update"):
        Publisher(engine, Trainer(), 0.05).before(ONE, 0)


def test_an_engine_that_cannot_score_is_not_checked():
    class Mute:
        def load_weights(self, named):
            self.seen = dict(named)

    mute = Mute()
    assert pushed(Publisher(mute, Trainer(), 0.05), []) is None
    assert mute.seen == {"w": 0.5}
