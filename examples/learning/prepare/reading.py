"""ALFWorld whose first message may hold other attempts at the same household: a student learns to read them.

A model that has seen nothing but transcripts says noise after a list of peers, and an average of it cannot teach under
one (`mopd`). Trained here it repeats an attempt that succeeded where one is shown, and otherwise behaves as the mixed
behaviour that a student of these examples starts from:

    agentbench train examples/learning/prepare/reading.yaml
"""

import random
from dataclasses import replace
from typing import Any

from transformers import AutoTokenizer

from agentbench import Expert, InstantPolicy, TextEnv, env_spec, run_episodes
from agentbench.envs.alfworld.env import AlfworldEnv
from agentbench.policies.demonstrations import MixturePolicy
from agentbench.policies.ready import ExpertPolicy
from agentbench.rollout.episode import Episode
from agentbench.trainers.teachers.peers import PeerConfig, peer_contexts
from agentbench.types import Group, Trajectory, derive_seed

ALFWORLD = env_spec("alfworld")
TOKENIZER = "examples/quickstart/start/student"
TURNS = 20


class ReadingEnv(AlfworldEnv):
    """Shows two peers of which one succeeded, or one that failed, or nothing, by the seed of the episode."""

    def __init__(self, *, shows: str = "", block_tokens: int = 256, render_mode: str | None = None) -> None:
        """Take what is shown, "success", "failure" or "nothing" ("" draws it), and how long a peer may be."""
        super().__init__(render_mode=render_mode)
        self.peers = PeerConfig(block_tokens=block_tokens)
        self.always, self.shown, self.drawn = shows, "nothing", 0
        self.tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Any]:
        observation, info = super().reset(seed=seed, options=options)
        self.offered, task = info["admissible"], info["task"]
        self.drawn = derive_seed(seed or 0, "reading", task)
        rng = random.Random(self.drawn)
        self.shown = self.always or rng.choices(("success", "failure", "nothing"), (3, 1, 2))[0]
        if self.shown == "nothing":
            return observation, info
        wanderer = MixturePolicy({"random": 0.5, "half_random": 0.5}, ExpertPolicy())
        peers = [self._peer(task, wanderer, rng)]
        if self.shown == "success":
            peers.append(self._peer(task, ExpertPolicy(), rng))
        reader = replace(peers[0], id="reader")
        contexts = peer_contexts([Group("", 0, (reader, *peers))], self.peers, self.tokenizer, seed=0, step=0)
        return f"{observation}\n\n{contexts['reader'].text}", info

    def step(self, action: str) -> tuple[str, float, bool, bool, Any]:
        result = super().step(action)
        self.offered = result[4]["admissible"]
        return result

    def _peer(self, task: str, policy: InstantPolicy, rng: random.Random) -> Trajectory:
        episode = Episode(ALFWORLD, task, rng.getrandbits(32), id=policy.name, max_turns=TURNS)
        return next(iter(run_episodes([episode], {"student": policy})))


class Reader:
    """Plays well where a success is shown, and else what the seed says: at random, for another goal, or well."""

    def __init__(self, env: TextEnv) -> None:
        assert isinstance(env.unwrapped, ReadingEnv)
        assert ALFWORLD.expert is not None
        assert ALFWORLD.decoy is not None
        self.env, self.expert = env.unwrapped, ALFWORLD.expert(env)
        self.rng = random.Random(derive_seed(self.env.drawn, "reader"))
        kind = self.rng.choices(("expert", "half", "decoy", "random"), (15, 25, 30, 30))[0]
        self.kind = "expert" if self.env.shown == "success" else kind
        self.decoy: Expert = ALFWORLD.decoy(env, self.env.drawn)

    def act(self) -> str:
        if self.kind == "random" or (self.kind == "half" and self.rng.random() < 0.5):
            return self.rng.choice(self.env.offered)
        return (self.decoy if self.kind == "decoy" else self.expert).act()


READING = replace(ALFWORLD, make=ReadingEnv, expert=Reader)
