"""Which ids exist, for every way in which a tokenizer and a model's rows differ."""

import numpy as np
import pytest

from agentbench.engine import Request, check_request
from agentbench.engines.scripted import ByteTokenizer
from agentbench.errors import UsageError
from agentbench.models.vocabulary import vocabulary_of
from agentbench.types import SamplingParams


class Tokenizer:
    """Has the tokens of `ids`; the last `added` of them were added."""

    def __init__(self, ids, added=0):
        self.ids = list(ids)
        self.added_tokens_decoder = {index: str(index) for index in self.ids[len(self.ids) - added :]}

    def __len__(self):
        return len(self.ids)

    def get_vocab(self):
        return {f"t{index}": index for index in self.ids}


@pytest.mark.parametrize(
    ("tokenizer", "rows", "exists"),
    [
        (Tokenizer(range(4)), 4, [1, 1, 1, 1]),
        (Tokenizer(range(4)), 7, [1, 1, 1, 1]),  # padded head: rows 4..6 are nobody's
        (Tokenizer([0, 1, 4]), 5, [1, 1, 0, 0, 1]),  # a hole: three tokens, ids up to 4
        (Tokenizer([0, 1, 4]), 9, [1, 1, 0, 0, 1]),  # both
        (Tokenizer(range(5), added=1), 4, [1, 1, 1, 1]),  # an added token that has no row
        (Tokenizer([0, 1, 4, 9], added=1), 6, [1, 1, 0, 0, 1]),  # all three
        (Tokenizer([0, 1, 4]), None, [1, 1, 0, 0, 1]),
    ],
)
def test_an_id_exists_where_the_tokenizer_has_a_token_and_the_model_a_row(tokenizer, rows, exists):
    vocabulary = vocabulary_of(tokenizer, rows)
    assert vocabulary.exists.tolist() == [bool(flag) for flag in exists]
    assert vocabulary.width == len(exists)
    assert vocabulary.count == sum(exists)
    assert vocabulary.holes.tolist() == [index for index, flag in enumerate(exists) if not flag]
    real = [index for index, flag in enumerate(exists) if flag]
    assert sorted([*vocabulary.absent(9).tolist(), *real]) == list(range(9))
    assert vocabulary.has([-1, 0, 4, 100]).tolist() == [False, True, len(exists) > 4, False]


def test_a_tokenizer_without_a_table_has_all_ids_up_to_its_length():
    assert vocabulary_of(ByteTokenizer(), 300).exists.tolist() == [True] * 259


@pytest.mark.parametrize(("count", "rows"), [(259, 50), (200, 197)])
def test_a_tokenizer_whose_own_tokens_lack_rows_belongs_to_another_model(count, rows):
    with pytest.raises(UsageError, match=f"has {count} tokens, but model 'm' embeds only {rows}"):
        vocabulary_of(Tokenizer(range(count)), rows, "m")


@pytest.mark.parametrize(
    ("prompt", "choices", "words"),
    [
        ([0, 2, 1], None, "its prompt has id 2 outside the vocabulary of 3"),  # in the hole
        ([0, 5], None, "its prompt has id 5 outside"),  # padding of the head
        ([0, -1], None, "its prompt has id -1"),
        ([0, 1], ((1, 4), (1, 3)), "a choice has id 3 outside"),
    ],
)
def test_requests_with_ids_that_do_not_exist_are_refused(prompt, choices, words):
    vocabulary = vocabulary_of(Tokenizer([0, 1, 4]), 8)
    request = Request("a", prompt, SamplingParams(max_new_tokens=4), 0, choices=choices)
    with pytest.raises(UsageError, match=words):
        check_request(request, vocabulary)


def test_requests_of_ids_that_exist_pass():
    request = Request("a", np.array([0, 1, 4]), SamplingParams(), 0, choices=((1, 4), (0,)))
    check_request(request, vocabulary_of(Tokenizer([0, 1, 4]), 8))
