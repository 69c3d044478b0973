"""Importing this module makes other people's ALFWorld loops play the native engine: that line is all there is to do.

Every loop ends at TextWorld's `textworld.gym.make(id)`, which builds its class for a batch of games. The import puts
ours in its place: a subclass that hands what `play.batch.Wanted` does not know to TextWorld and says so once. Order
of the games, seeds, laps, skipping and rendering are TextWorld's own code. Leaves out the playing (`play.batch`) and
comparing both (`side_by_side`).

AGENTBENCH_ALFWORLD=0 switches it off, AGENTBENCH_ALFWORLD=settings.yaml sets it up; see `Settings`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agentbench.bridges import Bridge, say_once
from agentbench.bridges.bridge import BridgeSettings
from agentbench.errors import missing_dependency

from .play.batch import Games, NativeBatch, Wanted


class Settings(BridgeSettings):
    """Settings of this bridge.

    Attributes:
        sort_games: sort the list of games before it is shuffled. ALFWorld lists games as the file system does, so one
            seed is other games on another machine; sorted, it is the same everywhere, and other games than without
            the bridge.
        games_kept: compiled games that a process remembers, about 0.3 MB each.
    """

    sort_games: bool = False
    games_kept: int = Field(default=256, ge=0)


_NAMES = ("TextworldBatchGymEnv", "TextworldGymEnv")
_originals: dict[str, type] = {}
_settings = Settings()
_games = Games(_settings.games_kept)


def install(settings: Settings | None = None) -> None:
    """Put ours in the place of TextWorld's classes, also for games that were registered before.

    Raises: MissingDependency: textworld is not installed.
    """
    global _settings
    _settings = settings if settings is not None else Settings()
    _games.kept, _games.quiet = _settings.games_kept, _settings.quiet
    if not _settings.enabled:
        return uninstall()
    gym = _textworld()
    for name in _NAMES:
        if name not in _originals:
            _originals[name] = getattr(gym, name)
            _replace(gym, name, _stand_in(_originals[name]))


def uninstall() -> None:
    """Put TextWorld's classes back."""
    for name, original in list(_originals.items()):
        _replace(_textworld(), name, original)
        del _originals[name]


def original_class() -> Any:
    """Return TextWorld's own class for a batch of games, whether the bridge is on or not."""
    return _originals.get(_NAMES[0]) or getattr(_textworld(), _NAMES[0])


def native_class() -> Any:
    """Return the class that stands in for it, whether the bridge is on or not."""
    return _stand_in(original_class())


def _textworld() -> Any:
    try:
        from textworld.gym import utils
    except ImportError as error:
        raise missing_dependency("textworld", "alfworld", "the ALFWorld bridge") from error
    return utils


def _replace(gym: Any, name: str, new: type) -> None:
    old = getattr(gym, name)
    setattr(gym, name, new)
    for registered in gym.registry.values():
        if registered["entry_point"] is old:
            registered["entry_point"] = new


def _stand_in(original: Any) -> Any:
    """Make the subclass that plays natively what it can."""

    class Native(original):  # type: ignore[misc]
        """TextWorld's class, with another engine behind it where that gives the same answers."""

        def __init__(
            self,
            gamefiles: Any,
            request_infos: Any = None,
            batch_size: int = 1,
            asynchronous: bool = True,
            auto_reset: bool = False,
            max_episode_steps: int | None = None,
            wrappers: Any = (),
        ) -> None:
            given = list(gamefiles)
            wanted = _wanted(
                given, request_infos, batch_size, asynchronous, auto_reset, max_episode_steps, wrappers
            )
            if isinstance(wanted, str):
                if not _settings.quiet:
                    say_once(wanted, f"ALFWorld is played by TextWorld, not by the native engine: {wanted}")
                super().__init__(
                    gamefiles,
                    request_infos=request_infos,
                    batch_size=batch_size,
                    asynchronous=asynchronous,
                    auto_reset=auto_reset,
                    max_episode_steps=max_episode_steps,
                    wrappers=list(wrappers),
                )
                return
            self.gamefiles = sorted(given) if _settings.sort_games else gamefiles
            self.batch_size = batch_size
            self.request_infos = wanted.request_infos
            self.seed(1234)  # as the original does
            self.batch_env = NativeBatch(wanted, batch_size, _games, strict=batch_size > 1 and asynchronous)

        def close(self) -> None:
            """Hold on to the batch: unlike the original's, it can be reset again."""
            if not isinstance(self.batch_env, NativeBatch):
                super().close()

    Native.__name__ = Native.__qualname__ = original.__name__
    return Native


def _wanted(
    files: list[Any],
    request_infos: Any,
    batch_size: int,
    asynchronous: bool,
    auto_reset: bool,
    limit: int | None,
    wrappers: Any,
) -> Wanted | str:
    """Read a set-up; the reason in words where TextWorld itself has to play it."""
    from textworld import EnvInfos

    if auto_reset:
        return "auto_reset is TextWorld's to do"
    others = [path for path in files if not str(path).endswith(".tw-pddl")]
    if others:
        return f"{others[0]} is no .tw-pddl game"
    shares = batch_size > 1 and not asynchronous
    return Wanted.of(request_infos or EnvInfos(), limit, list(wrappers), shares_wrappers=shares)


BRIDGE = Bridge(
    id="alfworld",
    stands_for="TextWorld's batch of games, for AlfredTWEnv, its copies and everything built on textworld.gym",
    install=install,
    uninstall=uninstall,
    settings=Settings,
    check="agentbench.envs.alfworld.side_by_side:check",
)
"""The plug-in."""

install(BRIDGE.configured())
