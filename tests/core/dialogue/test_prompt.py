import pytest

from agentbench.dialogue.prompt import load_prompt
from agentbench.errors import ConfigError, UnknownName

SLOTS = {
    "observation": "a room",
    "admissible": ["look"],
    "history": [],
    "turn": 1,
    "steps": 0,
    "max_turns": 5,
    "info": {},
}


def write(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return str(path)


def test_first_and_later_templates(tmp_path):
    later = "{% for o, a in history %}{{ o }}>{{ a }};{% endfor %}"
    text = f"layout: fresh\nfirst: 'see {{{{ observation }}}}'\nlater: '{later}'\n"
    prompt = load_prompt(write(tmp_path, text))
    assert prompt.message(SLOTS, first=True) == "see a room"
    assert prompt.message(SLOTS | {"history": [("x", "y"), ("z", "w")]}, first=False) == "x>y;z>w;"


def test_digest_follows_the_text(tmp_path):
    one = load_prompt(write(tmp_path, "layout: fresh\nfirst: a\nlater: a\n")).digest
    (tmp_path / "sub").mkdir()
    two = load_prompt(write(tmp_path / "sub", "layout: fresh\nfirst: b\nlater: a\n")).digest
    assert one != two
    assert len(one) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layout: fresh\nfirst: a\n", "later"),
        ("layout: odd\nfirst: a\nlater: a\n", "layout"),
        ("layout: fresh\nfirst: '{% for %}'\nlater: a\n", "not valid"),
        ("layout: fresh\nfirst: a\nlater: a\nextra: 1\n", "extra"),
        ("layout: fresh\nfirst: a\nlater: a\nstop: '</a>'\n", "stop"),
        ("layout: fresh\nfirst: a\nlater: a\nstop: ['']\n", "stop"),
    ],
)
def test_broken_files_are_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_prompt(write(tmp_path, text))


def test_unknown_slot_names_those_there_are(tmp_path):
    prompt = load_prompt(write(tmp_path, "layout: fresh\nfirst: '{{ goal }}'\nlater: a\n"))
    with pytest.raises(ConfigError, match=r"'goal' is undefined.*observation"):
        prompt.message(SLOTS, first=True)


@pytest.mark.parametrize("name", ["agentbench.prompts:alfworld/absent", "no.such.package:x/y", "absent.yaml"])
def test_absent_prompts(name):
    with pytest.raises(UnknownName):
        load_prompt(name)


def test_stop_strings_are_the_prompts_own_and_none_by_default(tmp_path):
    (tmp_path / "a").mkdir()
    text = "layout: fresh\nfirst: a\nlater: a\n"
    assert load_prompt(write(tmp_path, text)).stop == ()
    assert load_prompt(write(tmp_path / "a", text + "stop: ['</a>', b]\n")).stop == ("</a>", "b")


@pytest.mark.parametrize("key", ["system", "first", "later"])
@pytest.mark.parametrize("text", ['"\\ud800"', "\"{{ '\\\\ud800' }}\""])
def test_half_a_character_is_refused(tmp_path, key, text):
    if key == "system" and "{{" in text:
        pytest.skip("the system text is no template")
    file = tmp_path / "p.yaml"
    others = "".join(f"{name}: x\n" for name in ("first", "later") if name != key)
    file.write_text(f"layout: growing\nparser: plain\n{others}{key}: {text}\n")
    with pytest.raises(ConfigError, match=r"surrogates not allowed|invalid Unicode"):
        load_prompt(str(file)).message({}, first=key == "first")
