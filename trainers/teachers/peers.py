"""Peer contexts: what a teacher reads of the other attempts at the same task, for each attempt of a group.

Source: multi-rollout OPD, arXiv:2605.12652, released code: up to two peers that succeeded and one that failed, in
blocks, and an instruction after them. In environments of many turns a peer is its transcript, actions and observations,
and every turn of an attempt has the same context. An attempt never occurs in its own context.
Leaves out where the text goes (`contexts`) and what is learnt (`mopd`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from agentbench.config import Section
from agentbench.types import Group, Trajectory, derive_seed

_CUT = "\n[the rest of this attempt is left out]"
_TITLES = _FIRST, _NEXT, _FAILED, _VERDICT = (
    "An attempt that succeeded",
    "Another attempt that succeeded",
    "An attempt that failed; avoid what it did wrong",
    "What was said at the end of a failed attempt",
)
_OPENING = (
    "Other attempts at this very task are shown below. They were made by others, and you may learn from them."
)
_CLOSING = (
    "Now make your own attempt, in the form that the message above this list asks for. Use what these attempts show, "
    "and do not mention them."
)


class PeerConfig(Section):
    """Keys that say which peers a teacher reads.

    Attributes:
        success_threshold: a peer succeeded whose score reaches it; 1 for verdicts of yes and no.
        successes: successful peers shown at most, the first ones of the group.
        failure: when one failed peer, drawn at random, is shown too: "always" (contrastive), "no_success" (only where
            no peer succeeded) or "never" (positive imitation).
        feedback: where no peer succeeded, also show what the environment said at the end of a failed attempt.
        block_tokens: a longer block loses its end; blocks are cut one by one, the instruction never.
    """

    success_threshold: float = Field(default=1.0, gt=0, le=1)
    successes: int = Field(default=2, ge=0)
    failure: Literal["always", "no_success", "never"] = "always"
    feedback: bool = True
    block_tokens: int = Field(default=2048, ge=16)

    @model_validator(mode="after")
    def _shows_something(self) -> PeerConfig:
        if self.successes == 0 and self.failure == "never" and not self.feedback:
            raise ValueError("successes 0, failure 'never' and feedback false show the teacher nothing")
        return self

    @property
    def most_blocks(self) -> int:
        """Blocks of a context at most: with a success among the peers, or without one."""
        with_success = self.successes + (self.failure == "always")
        return max(with_success, (self.failure != "never") + self.feedback)

    def succeeded(self, episode: Trajectory) -> bool:
        """Whether an attempt counts as a success; one that broke counts as neither."""
        return episode.ok and episode.score >= self.success_threshold


@dataclass(frozen=True)
class PeerContext:
    """What the teacher of one attempt reads.

    Attributes:
        peers: ids of the attempts that are shown.
        failed: whether a failed one is among them.
        blocks: how many there are, and how many of them were cut.
    """

    text: str
    peers: tuple[str, ...]
    failed: bool
    blocks: int
    cut: int


def longest_context(config: PeerConfig, tokenizer: Any) -> int:
    """Most tokens that a context may have."""
    rest = "\n\n".join([_OPENING, _CLOSING, *[f"## {max(_TITLES, key=len)}\n{_CUT}"] * config.most_blocks])
    return config.most_blocks * config.block_tokens + len(tokenizer.encode(rest, add_special_tokens=False))


def peer_contexts(
    groups: Sequence[Group], config: PeerConfig, tokenizer: Any, *, seed: int, step: int
) -> dict[str, PeerContext]:
    """Make the context of every attempt, by trajectory id; one without a single block is left out."""
    made = {}
    for group in groups:
        for episode in group.members:
            rng = random.Random(derive_seed(seed, "peer", step, episode.id))
            peers = [other for other in group.members if other.ok and other.id != episode.id]
            context = _context(peers, config, tokenizer, rng)
            if context is not None:
                made[episode.id] = context
    return made


def _context(
    peers: Sequence[Trajectory], config: PeerConfig, tokenizer: Any, rng: random.Random
) -> PeerContext | None:
    won = [peer for peer in peers if config.succeeded(peer)]
    lost = [peer for peer in peers if not config.succeeded(peer)]
    failed = rng.choice(lost) if lost else None
    shows_failure = config.failure == "always" or (config.failure == "no_success" and not won)
    blocks: list[tuple[str, str]] = []
    used: list[str] = []
    for number, peer in enumerate(won[: config.successes]):
        blocks.append((_NEXT if number else _FIRST, transcript(peer)))
        used.append(peer.id)
    if failed is not None and shows_failure:
        blocks.append((_FAILED, transcript(failed)))
        used.append(failed.id)
    if failed is not None and config.feedback and not won and failed.final_observation:
        blocks.append((_VERDICT, failed.final_observation.strip()))
        used.append(failed.id)
    if not blocks:
        return None
    texts, cut = [], 0
    for title, text in blocks:
        short = _shortened(text, config.block_tokens, tokenizer)
        cut += short != text
        texts.append(f"## {title}\n{short}")
    text = "\n\n".join([_OPENING, *texts, _CLOSING])
    failing = failed is not None and failed.id in used
    return PeerContext(text, tuple(dict.fromkeys(used)), failing, len(blocks), cut)


def transcript(episode: Trajectory) -> str:
    """What was done and seen in turn, without the first message (the reader has its own) and the last verdict.

    An episode of one turn is its reply.
    """
    said = [turn.action.text if turn.env_action is None else turn.env_action for turn in episode.turns]
    if len(said) == 1:
        return said[0].strip()
    lines = []
    for number, action in enumerate(said, start=1):
        if number > 1:
            lines.append(f"Observation: {episode.turns[number - 1].observation.strip()}")
        lines.append(f"Action {number}: {action.strip()}")
    return "\n".join(lines)


def _shortened(text: str, most: int, tokenizer: Any) -> str:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) <= most:
        return text
    return str(tokenizer.decode(ids[:most])).rstrip("\ufffd") + _CUT
