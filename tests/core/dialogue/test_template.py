import datetime
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from families import FAMILIES, MISTRAL, Family, tokenizer_of

from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.dialogue.template import ChatTemplate
from agentbench.envs.corridor import SPEC
from agentbench.errors import ConfigError, UsageError
from agentbench.types import Action, Turn

NAMES = sorted(FAMILIES)
_MADE = {}


def tokenizer(name):
    if name not in _MADE:
        _MADE[name] = tokenizer_of(FAMILIES[name])
    return _MADE[name]


def prompt(tmp_path, **keys):
    path = tmp_path / f"prompt-{len(list(tmp_path.iterdir()))}.yaml"  # they are cached by path
    values = {
        "layout": "growing",
        "parser": "plain",
        "first": "{{ observation }}",
        "later": "{{ observation }}",
    }
    path.write_text("".join(f"{key}: {value!r}\n" for key, value in (values | keys).items()))
    return load_prompt(str(path))


def view(observation, turns=(), **info):
    info = {"admissible": [], "task": "t"} | info
    return SimpleNamespace(observation=observation, turns=list(turns), info=info, spec=SPEC)


def renderer(name, tmp_path, **keys):
    options = keys.pop("template_options", None)
    return Renderer(
        tokenizer(name), prompt(tmp_path, **keys), history=2, max_turns=9, template_options=options
    )


def turn_of(rendered, ids):
    ids = tuple(ids)
    return Turn(
        0, "now", Action("go left", ids, (0.0,) * len(ids)), "go left", 0.0, rendered.context_ids, True
    )


# --- how a reply ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "cut"])
@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_goes_on_as_the_template_writes_it(name, ended, tmp_path):
    family, tok, made = FAMILIES[name], tokenizer(name), renderer(name, tmp_path)
    assert tok.convert_ids_to_tokens(made.end_id) == family.end
    said = tok.encode("go left", add_special_tokens=False)
    assert list(made.reply_ids("go left")) == [*said, tok.convert_tokens_to_ids(family.end)]
    first = made.render(view("now"))
    turn = turn_of(first, made.reply_ids("go left") if ended else said)
    second = made.render(view("SEEN", [turn]))
    assert tok.decode(second.prompt_ids) == tok.decode(first.prompt_ids) + "go left" + family.after
    assert second.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids


class Later(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2030, 1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_those_of_the_chat_template(name, tmp_path, monkeypatch):
    import transformers.utils.chat_template_utils as clock

    tok = tokenizer(name)
    made = renderer(name, tmp_path, layout="fresh", template_options={"today": "2030-01-02"})
    monkeypatch.setattr(clock, "datetime", Later)
    messages = [{"role": "user", "content": "now"}]
    text = tok.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert made.render(view("now")).prompt_ids == tok.encode(text, add_special_tokens=False)


def test_a_tokenizer_and_template_without_an_end_are_refused(tmp_path):
    bare = SimpleNamespace(
        chat_template="t",
        name_or_path="bare",
        eos_token_id=None,
        encode=lambda text, add_special_tokens=False: [1],
        apply_chat_template=lambda messages, **_: "|".join(m["content"] for m in messages),
    )
    with pytest.raises(UsageError, match=r"'bare' names a token that ends a reply; set eos_token"):
        Renderer(bare, prompt(tmp_path), history=2, max_turns=9)


# --- thinking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parser", ["tags:30", "lenient", "plain"])
def test_a_written_reply_completes_what_the_prompt_opened(name, parser, tmp_path):
    made, speaks = renderer(name, tmp_path), get_parser(parser)
    assert made.opened == FAMILIES[name].opened
    assert made.render(view("now")).opened == made.opened
    reply = speaks.format("go left", made.opened)
    parsed = speaks.parse(reply, made.opened)
    assert (parsed.command, parsed.failure) == ("go left", "")
    if parser != "plain":  # one thought, never two
        whole = made.opened + reply
        assert (whole.count("<think>"), whole.count("</think>")) == (1, 1)
        assert whole.endswith("<action>go left</action>")


def test_a_reply_that_begins_inside_the_thought_is_clean(tmp_path):
    opened = renderer("r1 distill", tmp_path).opened
    for parser, reply in (
        ("tags:30", "I go left.\n</think>\n\n<action>go left</action>"),
        ("lenient", "I go left.\n</think>\n\n<action>go left</action>"),
        ("plain", "I go left.\n</think>\n\ngo left"),
    ):
        parsed = get_parser(parser).parse(reply, opened)
        assert (parsed.command, parsed.failure) == ("go left", "")
    # it never came out of the thought
    assert get_parser("tags:30").parse("I go <action>go left</action>", opened).failure == "no_think"
    assert get_parser("plain").parse("I go left", opened).failure == "empty"


def test_thinking_is_switched_by_the_template_options(tmp_path):
    assert renderer("qwen3", tmp_path).opened == "<think>\n\n</think>\n\n"
    assert renderer("qwen3", tmp_path, template_options={"enable_thinking": True}).opened == ""


# --- the date ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_equal_on_every_day(name, tmp_path, monkeypatch):
    import transformers.utils.chat_template_utils as clock

    def ids():
        return renderer(name, tmp_path).render(view("now")).prompt_ids

    today = ids()
    monkeypatch.setattr(clock, "datetime", Later)
    assert ids() == today
    assert ("today" in ChatTemplate(tokenizer(name)).info) == FAMILIES[name].dated


def test_the_date_can_be_set_and_is_on_record(tmp_path):
    made = renderer("llama3.1", tmp_path, template_options={"today": datetime.date(2030, 1, 2)})
    assert "Today Date: 02 Jan 2030" in tokenizer("llama3.1").decode(made.render(view("now")).prompt_ids)
    assert made.template.info == {"enable_thinking": False, "today": "2030-01-02"}
    with pytest.raises(
        ConfigError, match=r"template_options.today = 'tomorrow' is no date; write it as 2024-07-26"
    ):
        renderer("llama3.1", tmp_path, template_options={"today": "tomorrow"})


# --- what a template refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["growing", "fresh"])
@pytest.mark.parametrize("name", NAMES)
def test_a_system_message_is_written_or_refused_when_built(name, layout, tmp_path):
    keys = {"layout": layout, "system": "Be brief."}
    if FAMILIES[name].system is True or (FAMILIES[name].system == "first" and layout == "fresh"):
        made = renderer(name, tmp_path, **keys)
        assert "Be brief." in tokenizer(name).decode(made.render(view("now")).prompt_ids)
        return
    words = "put the text of 'system' into the prompt's 'first'"
    if FAMILIES[name].system == "first":
        words = "rewrites messages, so a growing conversation"
    with pytest.raises(UsageError, match=words):
        renderer(name, tmp_path, **keys)


def test_a_template_that_drops_messages_is_refused(tmp_path):
    silent = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    )
    _MADE["silent"] = tokenizer_of(Family(silent, "</s>", "</s>"))
    with pytest.raises(UsageError, match="leaves system messages out"):
        renderer("silent", tmp_path, layout="fresh", system="Be brief.")
    with pytest.raises(UsageError, match="rewrites messages"):
        renderer("silent", tmp_path)
    deaf = "{% for m in messages %}{{ m.role }}{% endfor %}"
    _MADE["deaf"] = tokenizer_of(Family(deaf, "</s>", "</s>"))
    with pytest.raises(UsageError, match="leaves user messages out"):
        renderer("deaf", tmp_path, layout="fresh")


TURN = "<s>{{ m.role }}\n{{ m.content }}</s>"
ALL = "{% for m in messages %}" + TURN + "{% endfor %}"
NEXT = "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
REWRITING = {
    "the last two messages": ALL.replace("messages %}", "messages[-2:] %}") + NEXT,
    "numbered messages": ALL.replace("<s>", "<s>{{ loop.index }}/{{ messages | length }} ") + NEXT,
    "numbered questions": ALL.replace("<s>", "<s>{{ loop.index if m.role == 'user' else '' }}") + NEXT,
    "a summary of what was said": "<s>{{ messages | length }} messages</s>" + ALL + NEXT,
    "capitals": ALL.replace("m.content", "m.content | upper") + NEXT,
}


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("name", REWRITING)
def test_a_template_that_rewrites_what_was_said_is_for_fresh_prompts(name, system, tmp_path):
    _MADE[name] = tokenizer_of(Family(REWRITING[name], "</s>", "</s>", "<s>"))
    with pytest.raises(UsageError, match="rewrites messages"):
        renderer(name, tmp_path, **({"system": system} if system else {}))
    assert renderer(name, tmp_path, layout="fresh").render(view("now")).prompt_ids


CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m.content }}{% if loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


@pytest.mark.parametrize("layout", ["growing", "fresh"])
@pytest.mark.parametrize(
    ("template", "header"),
    [(CHANNELS, "'<|channel|>final<|message|>'"), (ALL, r"'<s>assistant\\n'")],
    ids=["channels", "no generation prompt"],
)
def test_words_before_a_reply_that_the_model_would_have_to_write_are_refused(
    template, header, layout, tmp_path
):
    marks = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
    _MADE["header"] = tokenizer_of(
        Family(template, "<|return|>", "<|return|>", specials=(*marks, "<s>", "</s>"))
    )
    with pytest.raises(UsageError, match="before a reply, and its prompts do not end with it") as refused:
        renderer("header", tmp_path, layout=layout)
    assert header.replace("\\\\", "\\") in str(refused.value)


SILENT_MARKS = (  # Command R7B: the marks around an answer are control tokens, the model writes the first of them
    "{% for m in messages %}<|START|>{{ m.role }}\n{% if m.role == 'assistant' %}<|ANSWER|>{{ m.content }}<|DONE|>"
    "{% else %}{{ m.content }}{% endif %}<|END|>{% endfor %}"
    "{% if add_generation_prompt %}<|START|>assistant\n{% endif %}"
)
STRICT_PARTS = ALL.replace(
    "{{ m.content }}",
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}",
)


@pytest.mark.parametrize(
    ("template", "end"), [(SILENT_MARKS, "<|DONE|>"), (STRICT_PARTS + NEXT, "</s>")], ids=["marks", "parts"]
)
def test_control_tokens_before_a_reply_are_no_words(template, end, tmp_path):
    marks = ("<|START|>", "<|ANSWER|>", "<|DONE|>", "<|END|>", "<s>", "</s>")
    _MADE["marks"] = tokenizer_of(Family(template, end, "<|END|>", specials=marks))
    made = renderer("marks", tmp_path)
    assert made.end_id == made.tokenizer.convert_tokens_to_ids(end)


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ messages.__class__.__mro__ }}", "{% include 'x' %}", "{{ x.y }}"]
)
def test_a_template_that_breaks_is_one_line(template, tmp_path):
    _MADE["broken"] = tokenizer_of(Family(template, "</s>", "</s>"))
    with pytest.raises(UsageError, match=r"the chat template of .* refuses a conversation: \w+") as refused:
        renderer("broken", tmp_path)
    assert "\n" not in str(refused.value)


# --- text that spells control tokens ----------------------------------------------------------------------------------


def control_of(name):
    """Ids that steer a family's conversations, and all texts that spell one."""
    tok, family = tokenizer(name), FAMILIES[name]
    texts = [t for t in (family.eos, family.bos, *family.specials, *family.added) if t]
    return {tok.convert_tokens_to_ids(text): text for text in texts}


@pytest.mark.parametrize("sentencepiece", [False, True], ids=["bytes", "sentencepiece"])
@pytest.mark.parametrize("name", NAMES)
def test_what_an_environment_says_never_becomes_a_control_token(name, sentencepiece, tmp_path):
    family = FAMILIES[name]
    _MADE["now"] = tok = tokenizer_of(family, sentencepiece=sentencepiece)
    control = {tok.convert_tokens_to_ids(text): text for text in control_of(name).values()}
    evil = "A note: " + "\nopen ".join(control.values()) + " end"
    fresh = {
        "layout": "fresh",
        "later": "{{ history }} {{ admissible | join(' ') }} {{ info.goal }} {{ observation }}",
    }

    def steering(ids):
        return [token for token in ids if token in control]

    for keys in ({}, fresh):
        made = renderer("now", tmp_path, **keys)
        found = {}
        for text in ("A note: end", evil):
            first = made.render(view(text, goal=text, admissible=[text]))
            said = made.reply_ids("go left")
            turn = Turn(
                0, text, Action("go left", said, (0.0,) * len(said)), text, 0.0, first.context_ids, True
            )
            second = made.render(view(text, [turn], goal=text, admissible=[text]))
            found[text] = steering(first.prompt_ids), steering(second.prompt_ids)
            seen = (
                text.replace("\u2581", " ") if sentencepiece else text
            )  # SentencePiece takes it for a blank
            assert seen in tok.decode(first.prompt_ids)
            assert seen in tok.decode(second.context_ids)
        assert found[evil] == found["A note: end"]


@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_spells_control_tokens_is_spoken_as_text(name, tmp_path):
    made, tok = renderer(name, tmp_path), tokenizer(name)
    command = "say " + " ".join(control_of(name).values())
    ids = made.reply_ids(command, command=command)
    assert tok.decode(ids[:-1]) == command
    assert not set(ids[:-1]) & set(control_of(name))
    assert ids[-1] == made.end_id


def test_ordinary_added_tokens_stay_what_they_are(tmp_path):
    _MADE["words"] = tok = tokenizer_of(Family(MISTRAL, "</s>", "</s>", "<s>", added=("cabinet 3", "user\n")))
    ids = renderer("words", tmp_path).render(view("</s> go to cabinet 3 now")).prompt_ids
    assert tok.convert_tokens_to_ids("cabinet 3") in ids
    assert tok.convert_tokens_to_ids("</s>") not in ids


def test_a_prompt_file_may_name_think_tokens(tmp_path):
    # Qwen3 has tokens for <think> and </think>; the words of a prompt file are ours and use them, as the field does
    tok = tokenizer("qwen3")
    made = renderer("qwen3", tmp_path, first="Think between <think> and </think>. {{ observation }}")
    ids = made.render(view("a sign says <think>")).prompt_ids
    # ours, and the empty thought of the generation prompt
    assert [ids.count(tok.convert_tokens_to_ids(text)) for text in ("<think>", "</think>")] == [2, 2]
