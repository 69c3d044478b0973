import random
from types import SimpleNamespace

import numpy as np
import pytest

from agentbench.engine import Request, sample
from agentbench.engines.scripted import ByteTokenizer, Reply, ScriptedEngine
from agentbench.engines.stops import StopFinder, cut_text, put_back
from agentbench.errors import EngineFailure, UsageError
from agentbench.models.vocabulary import Vocabulary
from agentbench.types import SamplingParams

SPECIAL = 1000


class Pieces:
    """A tokenizer whose tokens are the given pieces of text or bytes."""

    def __init__(self, pieces):
        self.pieces = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]

    def decode(self, ids, skip_special_tokens=False, clean_up_tokenization_spaces=True):
        assert skip_special_tokens
        assert not clean_up_tokenization_spaces
        return b"".join(b"" if i == SPECIAL else self.pieces[i] for i in ids).decode(errors="replace")


TAGS = ("</search>", "</answer>", "<information>")


@pytest.mark.parametrize(
    ("pieces", "stop", "length"),
    [
        (["<search>", "a", "</search>", "b"], TAGS, 3),
        (["x", "</", "se", "arch", ">", "b"], TAGS, 5),
        (["x", "</se", "arch>\n\nAnd", " more"], TAGS, 3),  # the token is kept whole
        (["<", "/", "s", "e", "a", "r", "c", "h", ">", "!"], TAGS, 9),
        (["a", "<information>", "</search>"], TAGS, 2),  # whichever comes first
        (["</search>"], TAGS, 1),
        (["</SEARCH>", "</ search>", "</search"], TAGS, None),
        (["终".encode()[:1], "终".encode()[1:], "了"], ("终了",), 3),
        (["a", b"\xff\xfe", "终".encode()[:2], "终".encode()[2:]], ("终",), 4),
        (["\n", "\n", "x"], ("\n\n",), 2),
        (["a", "a", "a"], ("aa",), 2),
        (["abc"], (), None),
        ([], TAGS, None),
    ],
)
def test_a_reply_ends_with_the_token_that_completes_a_stop_string(pieces, stop, length):
    finder, ids = StopFinder(Pieces(pieces)), list(range(len(pieces)))
    assert finder.length(ids, stop) == length
    ends = [n for n in range(1, len(ids) + 1) if finder.ends(ids[:n], stop)]
    assert ends[:1] == ([] if length is None else [length])


def test_special_tokens_do_not_show_and_a_string_completed_earlier_does_not_count_again():
    finder = StopFinder(Pieces(["a", "</answer>", "b"]))
    assert finder.length([0, SPECIAL, 1, SPECIAL], TAGS) == 3
    assert [finder.ends([0, 1, 2, SPECIAL][:n], TAGS) for n in range(1, 5)] == [False, True, False, False]
    assert finder.length([0, 1, 2, 2], TAGS, least=3) is None
    assert finder.length([0, 1, 2, 1], TAGS, least=3) == 4
    assert finder.ends(np.array([0, 1]), TAGS)


def test_looking_at_the_last_tokens_finds_what_looking_at_all_finds():
    rng = random.Random(0)
    letters = ["a", "b", "<", "/", ">", "é", "s>", "</", "ab", "</a", "\n"]
    for _ in range(300):
        finder = StopFinder(Pieces(letters))
        ids = [rng.randrange(len(letters)) for _ in range(60)]
        stop = tuple("".join(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(2))
        texts = [finder._decode(ids[:n]) for n in range(1, 61)]
        expected = next((n for n, text in enumerate(texts, 1) if any(one in text for one in stop)), None)
        assert finder.length(ids, stop) == expected


@pytest.mark.parametrize("stop", ["</search>", [""], ["a", 3], [None]])
def test_stop_strings_that_are_none_are_refused(stop):
    with pytest.raises(UsageError, match="stop must be a list of texts"):
        SamplingParams(stop=stop)


def test_stop_strings_are_part_of_the_record_where_there_are_any():
    assert "stop" not in SamplingParams().info
    assert SamplingParams(0.5, stop=["</a>"]).info == {
        "temperature": 0.5, "top_p": 1.0, "top_k": 0, "max_new_tokens": 512, "min_new_tokens": 0, "stop": ["</a>"],
    }  # fmt: skip
    assert SamplingParams(stop=["</a>"]) == SamplingParams(stop=("</a>",))


# --- texts ---


def test_a_text_is_cut_after_the_stop_string_that_is_complete_first():
    assert cut_text("a</search>b</answer>", ("</answer>", "</search>")) == "a</search>"
    assert cut_text("a</search>", TAGS) == "a</search>"
    assert cut_text("a", TAGS) is None
    assert cut_text("a", ()) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<search>who", "<search>who</search>"),
        ("<think>x</think><answer>Oslo", "<think>x</think><answer>Oslo</answer>"),
        ("<search>a <answer>b", "<search>a <answer>b</answer>"),
        ("nothing open", "nothing open"),
        ("<information>", "<information>"),
        ("", ""),
    ],
)
def test_a_closing_tag_is_put_back_where_its_opening_tag_stands_open(text, expected):
    assert put_back(text, TAGS) == expected


# --- the scripted engine ---


def asked(stop=TAGS, **options):
    return Request("a", (1,), SamplingParams(stop=stop, **options), 0)


def test_a_script_is_cut_at_stop_strings_as_a_model_would_be():
    engine = ScriptedEngine(["<search>a</search> and more", Reply("no tag", finish="length"), "x</answer>"])
    first, second, third = (sample(engine, [asked()])[0] for _ in range(3))
    assert (first.text, first.finish) == ("<search>a</search>", "stop")
    assert first.token_ids == list(b"<search>a</search>")
    assert len(first.logprobs) == len(first.token_ids)
    assert (second.text, second.finish) == ("no tag", "length")
    assert third.token_ids == list(b"x</answer>")  # the end token that the script adds comes later
    engine = ScriptedEngine(["</answer> and", "ok"], cycle=True)
    assert sample(engine, [asked(min_new_tokens=12)])[0].text == "</answer> and"
    assert sample(engine, [asked(stop=())])[0].token_ids == [*b"ok", ByteTokenizer().eos_token_id]


# --- vLLM in this process, its engine played by a script ---


def vllm_engine(monkeypatch, pieces, script, end_ids=(99,)):
    """An engine over a backend that brings the pieces of `script`: lists of (token ids, finish)."""
    from agentbench.engines.vllm import engine as module

    monkeypatch.setattr(module, "generation", lambda sampling, **options: options)

    class Backend:
        version = "0"

        def __init__(self):
            self.aborted, self.added, self.script = [], {}, list(script)

        def call(self, method, *arguments):
            assert method != "load_named"

        def add(self, id, token_ids, parameters):
            self.added[id] = parameters

        def step(self):
            ids, finish = self.script.pop(0)
            id = next(id for id in self.added if id not in self.aborted)
            return [module.Piece(id, ids, [-0.5] * len(ids), finish, 0)]

        def abort(self, ids):
            self.aborted += list(ids)

    backend = Backend()
    vocabulary = Vocabulary(np.ones(2000, bool))
    options = {
        "name": "m",
        "vocabulary": vocabulary,
        "max_context": 100,
        "end_ids": end_ids,
        "identity": {},
    }
    return module.VLLMEngine(backend, Pieces(pieces), **options), backend


@pytest.mark.parametrize(
    ("script", "ids", "finish", "aborted"),
    [
        ([([0], ""), ([1], ""), ([2], "")], [0, 1], "stop", True),
        (
            [([0, 1, 2], "")],
            [0, 1],
            "stop",
            True,
        ),  # a step may bring several tokens; what is beyond is dropped
        ([([0], ""), ([1], "length")], [0, 1], "stop", False),
        ([([0], ""), ([2], "length")], [0, 2], "length", False),
        ([([0], ""), ([SPECIAL], "stop")], [0, SPECIAL], "stop", False),
    ],
)
def test_vllm_ends_a_reply_at_a_stop_string(monkeypatch, script, ids, finish, aborted):
    engine, backend = vllm_engine(monkeypatch, ["<search>", "a</search>\n", "b"], script)
    action = sample(engine, [asked()])[0]
    assert (action.token_ids, action.finish) == (ids, finish)
    assert action.logprobs == [-0.5] * len(ids)
    assert action.text == engine.tokenizer.decode(ids, True, False)
    assert (backend.aborted == ["1"]) == aborted
    assert engine.poll() == []


def test_vllm_counts_stop_strings_from_the_least_number_of_tokens_on(monkeypatch):
    engine, _ = vllm_engine(monkeypatch, ["</answer>", "b"], [([0], ""), ([1], ""), ([0, 1], "")])
    assert sample(engine, [asked(min_new_tokens=2)])[0].token_ids == [0, 1, 0]
    engine, _ = vllm_engine(monkeypatch, ["</answer>", "b"], [([0], ""), ([1], "length")])
    assert sample(engine, [asked(stop=())])[0].token_ids == [0, 1]


def test_vllm_numbers_that_are_not_finite_are_still_a_failure(monkeypatch):
    engine, backend = vllm_engine(monkeypatch, ["</answer>"], [])
    piece = SimpleNamespace(
        id="1", token_ids=[0], logprobs=[float("nan")], finish="", cached_tokens=0, scores=None
    )
    backend.step = lambda: [piece]
    with pytest.raises(EngineFailure, match="not finite"):
        sample(engine, [asked()])
