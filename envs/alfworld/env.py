"""ALFWorld as a Gymnasium env: official and generated games, native or reference engine, the field's reward.

Owns what an agent sees besides the text (reward, info) and which engine plays. Leaves out the rules and sentences
(`engine`, `reference`), where games come from (`games`), and turn limits, prompts and parsing, which are the
rollout's.
"""

from __future__ import annotations

import random
import re
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import orjson

from agentbench.env import EnvSpec, Info, StepReturn, TextEnv, as_text, named_task, register_gymnasium
from agentbench.errors import UsageError, unknown_name

from .games import catalog as games
from .play.pddl import UnsupportedGame
from .play.reference import ReferenceSession, Replay
from .play.session import Game, Result, Session
from .play.state import State
from .players.errands import Decoy
from .players.expert import DeadEnd, Expert
from .players.explorer import Explorer

ENGINES = ("native", "textworld", "auto")
"""Who plays: our engine; TextWorld (extra `[alfworld]`); ours where it knows the game's rules, else TextWorld."""

REWARD = 10.0
"""Paid on the step that meets the goal, as verl-agent does; every other step pays 0."""

WORDINGS = ("either", "strict")
"""Which wordings of putting something down are understood: both releases', or only that of the game's own release, as
the original engine has it ("Nothing happens." to the other)."""

_WORDINGS = (
    (re.compile(r"put (.+) in/on (.+)"), "move {} to {}"),
    (re.compile(r"move (.+) to (.+)"), "put {} in/on {}"),
)


@dataclass(frozen=True)
class Scene:
    """A game ready to be played.

    Attributes:
        task: task id.
        task_type: one of the six task types.
        path: place of the game file in the official tree, or "generated/…".
        game: compiled for the native engine; None when that does not know its rules.
        refusal: the error that says so.
    """

    task: str
    task_type: str
    path: str
    game: Game | None
    refusal: UnsupportedGame | None = None


@lru_cache(maxsize=256)
def scene(task: str) -> Scene:
    """Load and compile a game; the last 256 are kept, about 0.3 MB each.

    Raises: as `games.load` does.
    """
    content = games.load(task)
    try:
        game = Game.from_json(orjson.loads(content.game), content.path)
    except UnsupportedGame as refusal:
        return Scene(task, content.task_type, content.path, None, refusal)
    return Scene(task, content.task_type, content.path, game)


class AlfworldEnv(TextEnv):
    """One household game at a time.

    The observation is the engine's text, letter by letter. `info["admissible"]` leaves out `help`, as the field's
    protocol does; it is carried out all the same. Both wordings of putting something down are understood ("move X to
    Y", "put X in/on Y"), whichever the game's release shows, unless `wording` is "strict". Beyond `INFO_KEYS`, info
    holds "won", "goal" (the task sentence without its introduction), "extra.gamefile" and "reworded" (the last command
    was understood in the other release's wording).
    """

    can_snapshot: ClassVar[bool] = True

    def __init__(
        self,
        engine: str = "native",
        split: str = "mini-train",
        wording: str = "either",
        *,
        render_mode: str | None = None,
    ) -> None:
        """Choose the engine, the split to draw from when `reset` names no task, and the wordings (see `WORDINGS`)."""
        super().__init__(("look", "inventory", "go to shelf 1"), render_mode=render_mode)
        if engine not in ENGINES:
            raise unknown_name("engine of alfworld", engine, ENGINES)
        if split not in SPEC.splits:
            raise unknown_name("split of alfworld", split, SPEC.splits)
        if wording not in WORDINGS:
            raise unknown_name("wording of alfworld", wording, WORDINGS)
        self.wording = wording
        self._reworded = False
        self.engine = engine
        self.split = split
        self._scene: Scene | None = None
        self._session: Session | ReferenceSession | None = None
        self._result = Result("", (), False, 0)
        self._folder: Path | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Start the game `options["task"]`, or one drawn from the split.

        Raises: UnknownName: no such task. MissingData: its files are absent. UnsupportedGame: the native engine
            does not know its rules.
        """
        super().reset(seed=seed)
        task = named_task(options)
        if task is None:
            drawn = games.tasks(self.split)
            task = drawn[int(self.np_random.integers(len(drawn)))]
        self._result = self._open(task).reset()
        self._reworded = False
        return self._result.observation, self._info()

    def step(self, action: str) -> StepReturn:
        """Carry out one command; whatever is not admissible is answered with "Nothing happens."."""
        if self._session is None or self._result.won:
            raise gymnasium.error.ResetNeeded("the game is over or never began; call reset() first")
        said = action if self.wording == "strict" else _reworded(as_text(action), self._result.admissible)
        self._reworded = said != action
        self._result = self._session.step(said)
        won = self._result.won
        return self._result.observation, REWARD if won else 0.0, won, False, self._info()

    def render(self) -> str:
        return self._result.observation

    def snapshot(self) -> Any:
        """Return (task id, the engine's snapshot, whether the last command was reworded)."""
        if self._scene is None or self._session is None:
            raise gymnasium.error.ResetNeeded("there is no game to take a snapshot of; call reset() first")
        return self._scene.task, self._session.snapshot(), self._reworded

    def restore(self, snapshot: Any) -> tuple[str, Info]:
        """Return to a snapshot of an env with the same engine; the reference engine plays up to it again."""
        task, moment, reworded = snapshot
        session = self._open(task)
        if isinstance(moment, Replay) != isinstance(session, ReferenceSession):
            raise UsageError("a snapshot of one ALFWorld engine cannot be restored into the other")
        self._result = session.restore(moment)
        self._reworded = reworded
        return self._result.observation, self._info()

    def close(self) -> None:
        """Give back what the reference engine holds."""
        if isinstance(self._session, ReferenceSession):
            self._session.close()
        self._session = self._scene = None

    @property
    def game(self) -> Game:
        """The compiled game, for experts.

        Raises: UnsupportedGame: only the reference engine can play it. ResetNeeded: no game was begun.
        """
        if self._scene is None:
            raise gymnasium.error.ResetNeeded("no game was begun; call reset() first")
        if self._scene.game is None:
            assert self._scene.refusal is not None
            raise self._scene.refusal
        return self._scene.game

    @property
    def state(self) -> State:
        """The full state of the game, for experts; beside the reference engine it is found by playing natively."""
        if isinstance(self._session, Session):
            return self._session.state
        session = Session(self.game)
        assert isinstance(self._session, ReferenceSession)
        for command in self._session.snapshot().commands:
            session.step(command)
        return session.state

    def _open(self, task: str) -> Session | ReferenceSession:
        if self._scene is not None and self._scene.task == task and self._session is not None:
            return self._session
        wanted = scene(task)
        self.close()
        if self.engine == "textworld" or (self.engine == "auto" and wanted.game is None):
            self._session = ReferenceSession(self._file(task))
        elif wanted.game is None:
            assert wanted.refusal is not None
            raise wanted.refusal
        else:
            self._session = Session(wanted.game)
        self._scene = wanted
        return self._session

    def _file(self, task: str) -> Path:
        """Write the game where TextWorld can read it."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="agentbench-alfworld-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        file = self._folder / "game.tw-pddl"
        file.write_bytes(games.load(task).game)
        return file

    def _info(self) -> Info:
        assert self._scene is not None
        assert self._session is not None
        won = self._result.won
        goal = self._session.task if isinstance(self._session, ReferenceSession) else self._session.game.task
        return {
            "task": self._scene.task,
            "admissible": [command for command in self._result.admissible if command != "help"],
            "success": won,
            "score": float(won),
            "task_type": self._scene.task_type,
            "won": won,
            "goal": goal,
            "extra.gamefile": self._scene.path,
            "reworded": self._reworded,
        }


def _reworded(command: str, admissible: tuple[str, ...]) -> str:
    """Put a command into the other release's wording where only that is admissible."""
    stripped = command.strip()
    if stripped not in admissible:
        for pattern, other in _WORDINGS:
            found = pattern.fullmatch(stripped)
            if found and (meant := other.format(*found.groups())) in admissible:
                return meant
    return command


class AlfworldExpert:
    """Plays shortest solutions from any state.

    A game can be lost for good (something is in hand that fits nowhere). The expert then says "look" until the
    episode's limit ends it, so that it counts as the failure it is, not as an error.
    """

    def __init__(self, env: TextEnv) -> None:
        """Bind to an ALFWorld env, wrapped or not."""
        self.env = _bare(env)
        self._expert: Expert | None = None

    def act(self) -> str:
        game = self.env.game
        if self._expert is None or self._expert.game is not game:
            self._expert = Expert(game)
        try:
            return self._expert.act(self.env.state) or "look"
        except DeadEnd:
            return "look"


class AlfworldDecoy:
    """Runs other errands in the room of the game, chosen by the seed; says "look" when there is nothing to do."""

    def __init__(self, env: TextEnv, seed: int) -> None:
        """Bind to an ALFWorld env, wrapped or not."""
        self.env = _bare(env)
        self.seed = seed
        self._decoy: Decoy | None = None

    def act(self) -> str:
        game = self.env.game
        if self._decoy is None or self._decoy.game is not game:
            self._decoy = Decoy(game, random.Random(self.seed))
        return self._decoy.act(self.env.state) or "look"


def _bare(env: TextEnv) -> AlfworldEnv:
    inner = env.unwrapped
    if not isinstance(inner, AlfworldEnv):
        raise UsageError(f"this player plays ALFWorld only, got {type(inner).__name__}")
    return inner


SPEC = EnvSpec(
    id="alfworld",
    gym_id="agentbench/ALFWorld-v1",
    make=AlfworldEnv,
    splits=(*games.generated_splits(), *games.OFFICIAL, *games.JOINED),
    tasks=games.tasks,
    prompt="agentbench.prompts:alfworld/react",
    parser="tags:30",
    max_turns=50,
    history=2,
    reward_unit=REWARD,
    invalid_penalty=0.1,
    expert=AlfworldExpert,
    decoy=AlfworldDecoy,
    explorer=Explorer,
    extra="alfworld",
    counted={"reworded": "commands understood in the other release's wording"},
)
"""The plug-in: the protocol of the field (50 steps, reward 10, history 2, penalty 0.1)."""

register_gymnasium(SPEC, "agentbench.envs.alfworld.env:AlfworldEnv")
