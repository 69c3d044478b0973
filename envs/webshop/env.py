"""WebShop as a Gymnasium env: what an agent reads, when an episode ends, what it pays; and the plug-in's `SPEC`.

Leaves out the shop's behaviour (`session`), tasks and data (`market`), and turn limits, prompts and parsing, which
are the rollout's.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

import gymnasium

from agentbench.env import (
    AnyText,
    EnvSpec,
    Info,
    StepReturn,
    TextEnv,
    as_text,
    named_task,
    register_gymnasium,
)
from agentbench.errors import UsageError, unknown_name

from .expert import Plan
from .shop.goals import Goal
from .shop.nouns import model_installed
from .shop.reward import Reward
from .shop.session import Session
from .stock import market

OBSERVATIONS = ("agent", "text", "text_rich")
"""Wordings: verl-agent's for models, or one of the original's two text modes."""

REWARD = 10.0
"""Paid for a purchase of score exactly 1, as verl-agent does; everything else pays 0."""


class WebShopEnv(TextEnv):
    """One shopper with one goal; the purchase ends the episode.

    Wordings: "agent" shows a page's parts in quotes without the instruction, which is in `info["instruction"]`;
    "text" and "text_rich" are the original's observations, letter by letter. Actions are `search[words]` and
    `click[name]`; what is impossible changes nothing. `info["admissible"]` lists a search as `search[<your query>]`,
    as the field does: any words may stand there, and a search works on every page.

    Beyond `INFO_KEYS`, info holds "instruction", "page" (search, results, item, done or a sub page's name), "valid"
    (the last action was carried out), and after a purchase "bought" (ASIN, options, price), "reward_parts" under the
    original's names, and "noun_test".
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]
    can_snapshot: ClassVar[bool] = True

    def __init__(
        self,
        split: str = "mini-train",
        *,
        observation: str = "agent",
        nouns: str = "auto",
        show_attrs: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Choose what is shown and drawn.

        Args:
            split: to draw from when `reset` names no task.
            observation: one of `OBSERVATIONS`.
            nouns: noun test of the reward, "auto", "spacy" or "letters"; see `nouns`.
            show_attrs: offer the Attributes page.
            render_mode: None or "ansi".
        """
        super().__init__()
        if observation not in OBSERVATIONS:
            raise unknown_name("observation of webshop", observation, OBSERVATIONS)
        if split not in market.SPLITS:
            raise unknown_name("split of webshop", split, market.SPLITS)
        self.action_space = AnyText(("search[shoes]", "click[back to search]", "click[buy now]"))
        self.render_mode = render_mode
        self.split = split
        self.observation = observation
        self.nouns = nouns
        self.show_attrs = show_attrs
        self._task: market.Task | None = None
        self._session: Session | None = None
        self._seed = 0
        self._bought: Reward | None = None
        self._valid = True

    # --- episodes ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Stand on the start page of the task `options["task"]`, or of one drawn from the split.

        Raises: UnknownName: no such task. MissingData: its files are absent.
        """
        gymnasium.Env.reset(self, seed=seed)
        task = named_task(options)
        if task is None:
            drawn = market.tasks(self.split)
            task = drawn[int(self.np_random.integers(len(drawn)))]
        self._open(task, seed or 0)
        return self._text(), self._info()

    def step(self, action: str) -> StepReturn:
        """Carry out `search[...]` or `click[...]`; anything impossible changes nothing."""
        session = self.session
        if session.state.view == "done":
            raise gymnasium.error.ResetNeeded("the shopper has bought already; call reset() first")
        outcome = session.act(as_text(action))
        self._bought, self._valid = outcome.bought, outcome.valid
        reward = REWARD if outcome.done and outcome.reward == 1.0 else 0.0
        return self._text(), reward, outcome.done, False, self._info()

    def snapshot(self) -> Any:
        """Return (task id, seed, state of the walk, parts of the reward if it is over, last action was valid)."""
        state = self.session.state
        assert self._task is not None
        return self._task.id, self._seed, state, self._bought, self._valid

    def restore(self, snapshot: Any) -> tuple[str, Info]:
        """Return to a snapshot of any WebShop env with the same options."""
        task, seed, state, bought, valid = snapshot
        self._open(task, seed)
        self.session.restore(state)
        self._bought, self._valid = bought, valid
        return self._text(), self._info()

    def render(self) -> str:
        """Return the page as the agent sees it."""
        return self._text()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the episode, not the shop: another process opens its own."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_session", "_task")}
        return {**kept, "_moment": self.snapshot() if self._session else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the shop of this process and go to where the episode was."""
        moment = state.pop("_moment")
        self.__dict__.update(state, _session=None, _task=None)
        if moment is not None:
            self.restore(moment)

    @property
    def session(self) -> Session:
        """The running walk, for experts and tests.

        Raises: ResetNeeded: no episode was begun.
        """
        if self._session is None:
            raise gymnasium.error.ResetNeeded("no shopper is in the shop; call reset() first")
        return self._session

    def _open(self, task_id: str, seed: int) -> None:
        old = self._task
        task = old if old is not None and old.id == task_id else market.find_task(task_id)
        same_shop = self._session is not None and old is not None and old.goals is task.goals
        self._session = Session(
            self._session.shop if same_shop and self._session else market.shop(task.catalog, self.nouns),
            task.goals,
            task.goal,
            name=str(task.goal.index),
            seed=str(seed),
            show_attrs=self.show_attrs,
        )
        self._task, self._seed, self._bought, self._valid = task, seed, None, True

    # --- what the agent sees ---

    def _text(self) -> str:
        session = self.session
        if self.observation == "agent":
            return agent_text(session)
        return session.text() if self.observation == "text" else session.rich()

    def _info(self) -> Info:
        assert self._task is not None
        session, bought = self.session, self._bought
        info: Info = {
            "task": self._task.id,
            "admissible": [] if bought else commands(session),
            "success": bought is not None and bought.total == 1.0,
            "score": bought.total if bought else 0.0,
            "task_type": session.shop.catalog.product(session.goal.place).category,
            "instruction": session.goal.instruction,
            "page": session.state.view,
            "valid": self._valid,
        }
        if bought is not None:
            state = session.state
            price = float(session.goals.price[session.shop.place(state.asin)])
            info["bought"] = {"asin": state.asin, "options": dict(state.options), "price": price}
            info["reward_parts"] = bought.parts()
            info["noun_test"] = session.shop.nouns.name
        return info


def agent_text(session: Session) -> str:
    """Return a page as verl-agent words it: every part after the instruction in quotes; the last page as it is."""
    return session.page.text if session.state.view == "done" else session.page.quoted


def commands(session: Session) -> list[str]:
    """Return the actions that would be carried out; a search with words of one's own is written `<your query>`."""
    return [*(["search[<your query>]"] if session.state.view == "search" else []), *session.page.commands]


class WebShopExpert:
    """Buys the product that the goal was made from; see `expert.Plan`."""

    def __init__(self, env: TextEnv) -> None:
        """Bind to a WebShop env, wrapped or not."""
        inner = env.unwrapped
        if not isinstance(inner, WebShopEnv):
            raise UsageError(f"the WebShop expert plays WebShop only, got {type(inner).__name__}")
        self.env = inner
        self._plan: tuple[Goal, Plan] | None = None

    def act(self) -> str:
        session = self.env.session
        if self._plan is None or self._plan[0] is not session.goal:
            self._plan = session.goal, Plan(session, self.wanted(session))
        return self._plan[1].next(session)

    def wanted(self, session: Session) -> Goal:
        """Return the goal to pursue."""
        return session.goal


class WebShopDecoy(WebShopExpert):
    """Shops just as well, but for another goal of the same shop, drawn with a seed."""

    def __init__(self, env: TextEnv, seed: int) -> None:
        """Bind to a WebShop env, wrapped or not."""
        super().__init__(env)
        self.seed = seed

    def wanted(self, session: Session) -> Goal:
        """Return a goal for another product, where there is one."""
        goals, own = session.goals, session.goal
        rng = random.Random(f"{self.seed}:{own.index}")
        drawn = (goals[rng.randrange(len(goals))] for _ in range(100))
        return next((goal for goal in drawn if goal.place != own.place), own)


SPEC = EnvSpec(
    id="webshop",
    gym_id="agentbench/WebShop-v1",
    make=WebShopEnv,
    splits=tuple(market.SPLITS),
    tasks=market.tasks,
    prompt="agentbench.prompts:webshop/react",
    parser="tags:20",
    max_turns=15,
    history=2,
    metric="success",
    reward_unit=REWARD,
    invalid_penalty=0.1,
    expert=WebShopExpert,
    decoy=WebShopDecoy,
    rules=f"webshop-1/{'spacy' if model_installed() else 'letters'}",  # the noun test moves one score in 25
)
"""The plug-in."""

register_gymnasium(SPEC, "agentbench.envs.webshop.env:WebShopEnv")
