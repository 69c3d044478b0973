"""Stands in for WebShop's own `WebAgentTextEnv`, so that other people's loops shop here without Java.

Importing this module registers "WebAgentTextEnv-v0" with gymnasium, and with the old gym where that is installed;
`take_names` also answers to the original's import names. Same pages, actions, rewards, goals and draws as the
original, and as verl-agent's copy where a seed is given. Leaves out the shop (`shop`), goals and sessions
(`sim_server`), and HTML: observation mode "html" and images are refused.

AGENTBENCH_WEBSHOP=1 with `agentbench.bridges.from_environment()` takes the names in processes that others start.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import string
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium

from agentbench.bridges import Bridge
from agentbench.bridges.bridge import BridgeSettings
from agentbench.errors import UsageError, unknown_name

from .shop.pages import SEPARATOR
from .shop.session import BASE_URL, Session
from .sim_server import SimBrowser, SimServer, random_idx, seed_all

GYM_ID = "WebAgentTextEnv-v0"
MODES = ("text", "text_rich", "url")
DEFAULT_FILE_PATH = "items_shuffle_1000.json"
DEFAULT_ATTR_PATH = "items_ins_v2_1000.json"
"""No such files: the imported set of their size is used."""


class Settings(BridgeSettings):
    """Settings of this bridge.

    Attributes:
        take_names: answer to `web_agent_site` and `webshop_minimal`.
    """

    take_names: bool = True


class WebAgentTextEnv(gymnasium.Env[str, str]):
    """One shopper at a time, under the original's names; made to be subclassed as the original is.

    Steps return the old Gym's four values. `info` is always None. A reward is a float after an action that was
    carried out and the integer 0 after one that was not.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as gymnasium declares it

    def __init__(
        self,
        observation_mode: str = "html",
        file_path: Any = DEFAULT_FILE_PATH,
        server: SimServer | None = None,
        *,
        attr_path: Any = None,
        **kwargs: Any,
    ) -> None:
        """Open a shop, or enter that of `server`, and start a session.

        Args:
            observation_mode: one of `MODES`; the original's default "html" is refused.
            file_path: see `SimServer`.
            server: a shop to share.
            attr_path: see `SimServer`.
            kwargs: seed, num_products, human_goals, show_attrs, filter_goals, nouns (see `SimServer`); session,
                session_prefix, num_prev_obs, num_prev_actions. Others are ignored, as in the original.
        Raises: UsageError: "html", get_image, limit_goals or a goal_seed of its own. MissingData: no products.
        """
        _check_mode(observation_mode)
        _refuse(kwargs)
        self.observation_mode = observation_mode
        self.kwargs = kwargs
        self.file_path = file_path
        self.base_url = BASE_URL
        # verl-agent's copy alone takes a seed; it then also starts over by itself after a purchase
        self._own_seed: int | None = kwargs.get("seed")
        if self._own_seed is not None:
            seed_all(self._own_seed)
        self.server = server if server is not None else self._open(attr_path)
        self.browser = SimBrowser(self.server)
        self.session: str = kwargs.get("session")  # type: ignore[assignment]  # until the reset below
        self.session_prefix: str | None = kwargs.get("session_prefix")
        self.prev_obs: list[str] = []
        self.prev_actions: list[str] = []
        self.num_prev_obs: int = kwargs.get("num_prev_obs", 0)
        self.num_prev_actions: int = kwargs.get("num_prev_actions", 0)
        self.reset()

    def _open(self, attr_path: Any) -> SimServer:
        return SimServer(
            self.base_url,
            self.file_path,
            self.kwargs.get("filter_goals"),
            self.kwargs.get("limit_goals", -1),
            self.kwargs.get("num_products"),
            self.kwargs.get("human_goals"),
            self.kwargs.get("show_attrs", False),
            attr_path=attr_path,
            seed=self._own_seed,
            nouns=self.kwargs.get("nouns", "auto"),
        )

    # --- playing ---

    def reset(self, session: Any = None, instruction_text: str | None = None, **_: Any) -> tuple[str, None]:  # type: ignore[override]
        """Start a session.

        Args:
            session: an int picks the goal of that number where the session is new; any other value, NumPy's integers
                too, names a session whose goal is drawn; None draws a name as well. A known name keeps its goal.
            instruction_text: put in place of the attribute `instruction_text`; pages keep the goal's.
        Returns: the observation, None.
        """
        if session is None:
            self.session = "".join(random.choices(string.ascii_lowercase, k=10))
        else:
            self.session = str(session)
        if self.session_prefix is not None:
            self.session = self.session_prefix + self.session
        self.browser.get(self.session, session if isinstance(session, int) else None)
        self.text_to_clickable: dict[str, Any] | None = None
        self.instruction_text = self.get_instruction_text() if instruction_text is None else instruction_text
        observation = self.observation
        self.prev_obs, self.prev_actions = [observation], []
        return observation, None

    def step(self, action: str) -> tuple[str, float, bool, None]:  # type: ignore[override]
        """Carry out `search[...]` or `click[...]`; anything impossible changes nothing and pays the integer 0."""
        self.get_available_actions()
        reward, done = self.browser.act(str(action))
        observation = self.observation
        self.prev_actions.append(action)
        shown = [observation]
        for back in range(1, 1 + max(self.num_prev_obs, self.num_prev_actions)):
            if len(self.prev_actions) >= back and self.num_prev_actions >= back:
                shown.append(self.prev_actions[-back])
            if len(self.prev_obs) >= back and self.num_prev_obs >= back:
                shown.append(self.prev_obs[-back])
        self.prev_obs.append(observation)
        if done and self._own_seed is not None:
            self.reset()
        return SEPARATOR.join(reversed(shown)), reward, done, None

    def get_available_actions(self) -> dict[str, Any]:
        """Return {"has_search_bar": bool, "clickables": names in lower case}."""
        bar, names = self._shopper.available()
        self.text_to_clickable = dict(self._shopper.page.clickables)
        return {"has_search_bar": bar, "clickables": names}

    def get_instruction_text(self) -> str:
        """Return what stands above the page, "Instruction: " and the goal's text; "" on the last page."""
        above = self._shopper.above()
        return "".join(node.text for node in above.nodes[-2:]) if above is not None else ""

    @property
    def observation(self) -> str:
        """The page in the wording of `observation_mode`."""
        _check_mode(self.observation_mode)
        if self.observation_mode == "url":
            return self._shopper.url()
        return self._shopper.text() if self.observation_mode == "text" else self._shopper.rich()

    @property
    def state(self) -> dict[str, Any]:
        """Return url, html (empty, see the module) and instruction_text."""
        return {"url": self.browser.current_url, "html": "", "instruction_text": self.instruction_text}

    def render(self, mode: str = "human") -> None:
        """Do nothing, as the original."""

    def close(self) -> None:
        """Do nothing, as the original."""

    @property
    def _shopper(self) -> Session:
        shopper = self.browser.shopper
        assert shopper is not None  # the constructor starts a session
        return shopper


def _check_mode(mode: str) -> None:
    if mode == "html":
        raise UsageError(
            "observation_mode 'html' (the original's default) is not there, the shop makes no HTML; "
            f"pass one of {', '.join(MODES)}"
        )
    if mode not in MODES:
        raise unknown_name("observation_mode of WebShop", mode, MODES)


def _refuse(kwargs: dict[str, Any]) -> None:
    if kwargs.get("get_image"):
        raise UsageError("get_image is not there, the shop has no images; leave it out")
    goal_seed = kwargs.get("goal_seed")
    if goal_seed is not None and goal_seed != kwargs.get("seed"):
        raise UsageError(
            f"goal_seed={goal_seed!r} apart from seed={kwargs.get('seed')!r} is not supported; pass seed alone"
        )


# --- under the original's names ---


def register() -> None:
    """Make `gym.make("WebAgentTextEnv-v0")` work in gymnasium, and in the old gym where that is installed.

    The checkers stay off: the class has no spaces and returns four values, as the original's users expect.
    """
    gyms: list[Any] = [gymnasium]
    if importlib.util.find_spec("gym") is not None:
        gyms.append(importlib.import_module("gym"))
    for gym in gyms:
        known = getattr(gym.envs.registration, "registry", {})
        if GYM_ID in getattr(known, "env_specs", known):
            continue
        entry = f"{WebAgentTextEnv.__module__}:WebAgentTextEnv"
        try:
            gym.register(id=GYM_ID, entry_point=entry, order_enforce=False, disable_env_checker=True)
        except TypeError:  # releases of the old gym without a checker
            gym.register(id=GYM_ID, entry_point=entry, order_enforce=False)


_taken: dict[str, types.ModuleType] = {}


def take_names() -> None:
    """Answer to the import names of the original (`web_agent_site`) and of RAGEN's copy (`webshop_minimal`).

    Raises: UsageError: one of them was imported before.
    """
    contents = _contents()
    earlier = [name for name in contents if name in sys.modules and name not in _taken]
    if earlier:
        raise UsageError(f"{earlier[0]!r} was imported before; take the names of the bridge first")
    for name, content in contents.items():
        module = types.ModuleType(name, f"Stands in for {name}; see {__name__}.")
        vars(module).update(content)
        module.__path__ = []
        sys.modules[name] = _taken[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def give_names_back() -> None:
    """Undo `take_names`."""
    for name in list(_taken):
        del sys.modules[name], _taken[name]


def init_basedir(base_dir: str | None = None) -> None:
    """Use the files of a folder, or of its folder "data", from now on; None uses what was imported."""
    folder = Path(base_dir) if base_dir else None
    for name in (DEFAULT_FILE_PATH, DEFAULT_ATTR_PATH):
        key = "DEFAULT_FILE_PATH" if name == DEFAULT_FILE_PATH else "DEFAULT_ATTR_PATH"
        places = [folder / name, folder / "data" / name] if folder else []
        found = next((str(path) for path in places if path.is_file()), name)
        for module in ("webshop_minimal.utils", "web_agent_site.utils"):
            if module in _taken:
                setattr(_taken[module], key, found)


def get_file_path() -> str:
    """Return the items file in use."""
    module = _taken.get("webshop_minimal.utils")
    return str(getattr(module, "DEFAULT_FILE_PATH", DEFAULT_FILE_PATH))


def _contents() -> dict[str, dict[str, Any]]:
    """Name the modules to stand in for, parents first, and what each holds."""
    env = {"WebAgentTextEnv": WebAgentTextEnv}
    classes = {**env, "SimServer": SimServer, "SimBrowser": SimBrowser}
    paths = {
        "DEFAULT_FILE_PATH": DEFAULT_FILE_PATH,
        "DEFAULT_ATTR_PATH": DEFAULT_ATTR_PATH,
        "random_idx": random_idx,
    }
    base = {"init_basedir": init_basedir, "get_file_path": get_file_path}
    return {
        "web_agent_site": {},
        "web_agent_site.envs": env,
        "web_agent_site.envs.web_agent_text_env": classes,
        "web_agent_site.utils": paths,
        "webshop_minimal": {**env, **base, "random_idx": random_idx},
        "webshop_minimal.env": classes,
        "webshop_minimal.utils": {**paths, **base},
    }


def install(settings: Settings | None = None) -> None:
    """Switch the bridge on as `settings` say."""
    chosen = settings if settings is not None else Settings()
    if not chosen.enabled:
        return give_names_back()
    register()
    if chosen.take_names:
        take_names()


BRIDGE = Bridge(
    id="webshop",
    stands_for="WebShop's WebAgentTextEnv (web_agent_site, webshop_minimal, gym's WebAgentTextEnv-v0)",
    install=install,
    uninstall=give_names_back,
    settings=Settings,
    check="agentbench.envs.webshop.side_by_side:check",
)
"""The plug-in."""

register()
