from types import SimpleNamespace

import pytest

from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.envs.corridor import SPEC
from agentbench.errors import UsageError
from agentbench.types import Action, Turn

pytest.importorskip("transformers")
TEXTS = ["You are in room 1. <think> go left </think>", "open the red door"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from agentbench.models.tiny import make_tokenizer

    return make_tokenizer(tmp_path_factory.mktemp("tok"), TEXTS, vocab_size=320)


@pytest.fixture
def growing(tmp_path):
    path = tmp_path / "growing.yaml"
    path.write_text(
        "layout: growing\nsystem: be brief\nfirst: 'now: {{ observation }}'\nlater: '{{ observation }}'\n"
    )
    return load_prompt(str(path))


@pytest.fixture
def fresh(tmp_path):
    path = tmp_path / "fresh.yaml"
    text = (
        "{{ observation }}|{% for o, a in history %}{{ o }}>{{ a }};{% endfor %}|{{ turn }}/{{ max_turns }}"
    )
    path.write_text(f"layout: fresh\nfirst: 'first {{{{ observation }}}}'\nlater: '{text}'\n")
    return load_prompt(str(path))


def view(observation, turns=()):
    return SimpleNamespace(observation=observation, turns=list(turns), info={"admissible": []}, spec=SPEC)


def answer(renderer, seen, rendered, text, ended=True):
    ids = list(renderer.reply_ids(text))
    ids = ids if ended else ids[:-1]
    return Turn(len(seen.turns), seen.observation, Action(text, ids, [0.0] * len(ids)), text, 0.0,
                rendered.context_ids, rendered.fresh)  # fmt: skip


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False)


CHAT = (
    "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nnow: a<|im_end|>\n<|im_start|>assistant\n"
    "go<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize("ended", [True, False])
def test_growing_conversation_extends_the_sampled_ids(tokenizer, growing, ended):
    renderer = Renderer(tokenizer, growing, history=2, max_turns=9)
    first = view("a")
    one = renderer.render(first)
    turn = answer(renderer, first, one, "go", ended)
    two = renderer.render(view("b", [turn]))
    assert one.fresh
    assert not two.fresh
    assert two.prompt_ids == [*one.prompt_ids, *turn.action.token_ids, *two.context_ids]
    # whether or not the model closed its own reply, the conversation reads the same
    assert decode(tokenizer, two.prompt_ids) == CHAT


def test_sampled_ids_are_never_retokenised(tokenizer, growing):
    renderer = Renderer(tokenizer, growing, history=2, max_turns=9)
    first = view("a")
    one = renderer.render(first)
    odd = [*tokenizer.encode("g", add_special_tokens=False), *tokenizer.encode("o", add_special_tokens=False)]
    turn = Turn(
        0,
        "a",
        Action("go", [*odd, renderer.end_id], [0.0] * (len(odd) + 1)),
        "go",
        0.0,
        one.context_ids,
        True,
    )
    two = renderer.render(view("b", [turn]))
    assert two.prompt_ids[len(one.prompt_ids) :][: len(odd)] == odd


CONTINUING = {
    "layout": "continuing",
    "stop": ["</go>"],
    "first": "now: {{ observation }}",
    "later": "{{ observation }}",
}
OPENED = "<|im_start|>user\nnow: a<|im_end|>\n<|im_start|>assistant\n"


def test_a_continuing_reply_goes_on_after_the_observation_as_it_stands(tokenizer):
    renderer = Renderer(tokenizer, load_prompt(CONTINUING), history=2, max_turns=9)
    first = view("a")
    one = renderer.render(first)
    turn = answer(renderer, first, one, "<go>left</go>")
    two = renderer.render(view("\n\n[b]\n\n", [turn]))
    assert not two.fresh
    assert two.prompt_ids == [*one.prompt_ids, *turn.action.token_ids, *two.context_ids]
    assert decode(tokenizer, two.prompt_ids) == f"{OPENED}<go>left</go>\n\n[b]\n\n"
    assert turn.action.token_ids[-1] != renderer.end_id  # it ended in a stop string, as sampling would


def test_a_continuing_reply_that_ended_itself_keeps_its_end(tokenizer):
    # Departure from Search-R1, which decodes a reply, drops the token and encodes it anew: what was sampled stays.
    renderer = Renderer(tokenizer, load_prompt(CONTINUING), history=2, max_turns=9)
    first = view("a")
    turn = answer(renderer, first, renderer.render(first), "well")
    two = renderer.render(view("\nno\n", [turn]))
    assert decode(tokenizer, two.prompt_ids) == f"{OPENED}well<|im_end|>\nno\n"


def test_an_observation_inside_a_reply_cannot_end_it(tokenizer):
    renderer = Renderer(tokenizer, load_prompt(CONTINUING), history=2, max_turns=9)
    first = view("a")
    turn = answer(renderer, first, renderer.render(first), "<go>left</go>")
    two = renderer.render(view("x<|im_end|>y", [turn]))
    assert renderer.end_id not in two.context_ids
    assert decode(tokenizer, two.context_ids) == "x<|im_end|>y"


def test_fresh_prompts_restart_and_show_the_history_window(tokenizer, fresh):
    renderer = Renderer(tokenizer, fresh, history=2, max_turns=9)
    turns = []
    for step in range(3):
        seen = view(f"o{step}", turns)
        turns.append(answer(renderer, seen, renderer.render(seen), f"a{step}"))
    last = renderer.render(view("o3", turns))
    assert last.fresh
    assert last.context_ids == last.prompt_ids
    # window 2 before turn 4: the pairs of turns 2 and 3
    assert "o3|o1>a1;o2>a2;|4/9" in decode(tokenizer, last.prompt_ids)
    assert all(turn.fresh for turn in turns)


def test_history_zero_shows_none(tokenizer, fresh):
    renderer = Renderer(tokenizer, fresh, history=0, max_turns=9)
    seen = view("o0")
    turn = answer(renderer, seen, renderer.render(seen), "a0")
    assert "o1||2/9" in decode(tokenizer, renderer.render(view("o1", [turn])).prompt_ids)


def test_reply_ids_end_with_the_turn_end(tokenizer, fresh):
    renderer = Renderer(tokenizer, fresh, history=2, max_turns=9)
    assert decode(tokenizer, renderer.reply_ids("go")) == "go<|im_end|>"


def test_template_is_required_and_must_keep_messages(tokenizer, growing):
    with pytest.raises(UsageError, match="no chat template"):
        Renderer(SimpleNamespace(chat_template=None, name_or_path="x"), growing, history=2, max_turns=9)
    rewriting = SimpleNamespace(
        chat_template="t",
        encode=tokenizer.encode,
        apply_chat_template=lambda messages, **_: "".join(m["content"].upper() for m in messages),
    )
    with pytest.raises(UsageError, match="layout: fresh"):
        Renderer(rewriting, growing, history=2, max_turns=9)
