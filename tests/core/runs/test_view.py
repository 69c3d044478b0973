"""The page of a run: everything foreign is text, tokens and a trainer's numbers are there, and it loads nothing."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from places import TOY

from agentbench.cli import run as agentbench
from agentbench.config import validate
from agentbench.errors import MissingData, UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.policies.ready import ScriptedPolicy
from agentbench.registry import load
from agentbench.runs.episodes import encode_episode
from agentbench.runs.view import Pieces, Recorded, as_html, as_text, choose, outcome, read_recorded
from agentbench.types import Action, Failure, Trajectory, Turn

write_panel = load("envs", f"{TOY}:write_panel")
EVIL = '</pre><script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" \u202e\x1b[31m'


def episode(task="t0", success=True, **keys):
    turn = Turn(
        0,
        keys.pop("saw", "You see a lamp."),
        keys.pop("action", Action("use lamp", (5, 6), (-0.1, -2.0))),
        keys.pop("command", "use lamp"),
        1.0,
        annotations=keys.pop("annotations", {"weight": 0.5, "advantage": -2.0}),
        notes=keys.pop("notes", {}),
        shown=keys.pop("shown", {}),
    )
    values = {"id": task, "env": "toy", "task": task, "seed": 0, "turns": (turn,), "success": success}
    return Trajectory(**{**values, "score": float(bool(success)), "end": "terminated", **keys})


class Words(HTMLParser):
    """Tags that a browser would see, and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


class Letters:
    """Stands for a tokenizer: id 5 is "use", 6 is " <lamp>"."""

    name, missing = "letters", ""

    def __getitem__(self, token):
        return {5: "use", 6: " <lamp>"}[token]


def write(*episodes, pieces=None):
    return as_html(Recorded("a run", episodes), episodes, pieces or Pieces([]))


def test_foreign_text_stays_text_wherever_it_stands():
    turns = {"saw": EVIL, "action": Action(EVIL, author=EVIL), "command": EVIL, "notes": {EVIL: EVIL}}
    item = episode(
        EVIL, **turns, shown={EVIL: [EVIL]}, annotations={EVIL: 1.0}, final_observation=EVIL, task_type=EVIL
    )
    broken = episode("b", success=None, end="error", error=Failure(EVIL, EVIL, "env"))
    words = Words(as_html(Recorded(EVIL, [item], [EVIL]), [item, broken], Pieces([]), notes=[EVIL]))
    assert [tag for tag, _ in words.tags].count("script") == 1  # our own
    assert not [tag for tag, _ in words.tags if tag == "img"]
    assert not [name for _, attributes in words.tags for name in attributes if name.startswith("on")]
    assert "\u202e" not in words.text
    assert "\x1b" not in words.text
    assert words.text.count("alert(1)") > 8


def test_the_page_loads_nothing_and_runs_only_its_own_script():
    page = write(episode())
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_tokens_are_coloured_by_doubt_and_annotations_have_bars():
    page = write(episode(), pieces=Letters())
    # 0.75 x (1 - exp(-0.1)) = 0.071, 0.75 x (1 - exp(-2)) = 0.648
    assert (
        'style="background:rgba(207,90,70,0.071)" title="id 5, log-prob -0.1000 nats, probability 0.905">use<'
        in page
    )
    assert "rgba(207,90,70,0.648)" in page
    assert "&lt;lamp&gt;" in page
    assert "weight 0.5" in page
    assert 'advantage -2<span class="bar below" style="width:100%">' in page


def test_foreign_annotations_that_are_no_numbers_are_left_out():
    page = write(episode(annotations={"weight": "1; evil", "advantage": 0.25}, notes={"debate": ["a", "b"]}))
    assert "evil" not in page
    assert "advantage 0.25" in page


def test_without_a_tokenizer_the_page_says_so():
    assert "replies are shown as text, without their tokens: no tokenizer is known" in write(episode())
    assert "without their tokens" not in write(episode(action=Action("use lamp")))


def test_won_lost_broke_and_played_are_told_apart():
    broken = episode("b", success=None, end="error", error=Failure("EnvFailure", "it fell", "env"))
    kinds = [episode(), episode(success=False), broken, episode(success=None)]
    assert [outcome(item) for item in kinds] == ["won", "lost", "broke", "played"]
    assert "broke in the env: EnvFailure: it fell" in write(broken)
    source = Recorded("x", kinds)
    assert choose(source, lost=True)[0] == [kinds[1], broken]
    assert choose(source, tasks=["b"])[0] == [broken]
    assert choose(source, limit=2) == (kinds[:2], ["only the first 2 of 4 are shown (--limit)"])
    with pytest.raises(UsageError, match="none of the 4 episodes"):
        choose(source, tasks=["nothing"])


def test_text_for_a_terminal():
    text = as_text([episode(saw="You see\na lamp.\x1b[31m")])
    assert "=== t0: won, score 1, 1 turns" in text
    assert "You see\na lamp.\\x1b[31m" in text
    assert "--- 1 → use lamp  reward 1  weight 0.5  advantage -2" in text


@pytest.fixture
def run(tmp_path):
    values = {"panel": write_panel(tmp_path), "policy": "null", "output_dir": str(tmp_path / "run")}
    evaluate(validate(EvalConfig, values), policy=ScriptedPolicy(["win"]))
    return tmp_path / "run"


def test_the_command_writes_a_page_or_prints(run, tmp_path, capsys):
    assert agentbench(("view", str(run), "-o", str(tmp_path / "page.html"), "--limit", "3")) == 0
    captured = capsys.readouterr()
    assert "only the first 3 of 12" in captured.err
    words = Words((tmp_path / "page.html").read_text())
    assert [tag for tag, attributes in words.tags if attributes.get("class") == "episode"] == ["details"] * 3
    assert "33.3 % [13.8, 60.9], n = 12" in words.text  # Wilson's interval of 4 of 12
    assert agentbench(("view", str(run), "--task", "t00")) == 0
    assert capsys.readouterr().out.startswith("=== t00: won")
    assert agentbench(("view", str(run), "-o", "page.pdf")) == 2
    assert agentbench(("view", str(run), "--step", "1")) == 2
    assert (
        agentbench(("view", str(run), "-o", str(tmp_path / "x.html"), "--tokenizer", str(tmp_path / "none")))
        == 2
    )


def test_a_training_runs_episodes_are_found_by_step(tmp_path):
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "config.yaml").write_text("algorithm: gkd\nmax_steps: 9\nmodel_name_or_path: some/model\n")
    with pytest.raises(MissingData, match="no collected episodes"):
        read_recorded(tmp_path)
    for number in (0, 1):  # the file of step 1 is number 0; a group plays its task twice
        lines = [encode_episode(episode(f"t{number}")) + b"\n"] * 2
        (tmp_path / "rollouts" / f"step-{number:06d}.jsonl").write_bytes(b"".join(lines))
    newest = read_recorded(tmp_path)
    assert [item.task for item in newest.episodes] == ["t1", "t1"]
    assert newest.title.endswith("step 2")
    assert newest.facts == ["collected for step 2 of 9, gkd"]
    assert newest.tokenizers == ["some/model"]
    assert [item.task for item in read_recorded(tmp_path, 1).episodes] == ["t0", "t0"]
    with pytest.raises(UsageError, match="there are steps 1 to 2"):
        read_recorded(tmp_path, 7)


def test_lists_in_lists_beyond_what_can_be_written_are_shown_short():
    deep = []
    for _ in range(400):
        deep = [deep]
    assert "[[[" in write(episode(shown={"deep": deep}))
