"""Plays through OpenEnv's own generic client in a Python that has it; reads what to play, prints what came back.

Started by `test_openenv.py` as a program of its own, since OpenEnv pins packages that others pin otherwise.
"""

import json
import sys

from openenv.core.generic_client import GenericEnvClient


def main():
    url, episodes = sys.argv[1], json.load(sys.stdin)
    seen = []
    with GenericEnvClient(base_url=url).sync() as client:
        for episode in episodes:
            result = client.reset(**episode["reset"])
            rows = [[result.observation, result.reward, result.done]]
            for command in episode["commands"]:
                result = client.step({"command": command})
                rows.append([result.observation, result.reward, result.done])
            seen.append({"rows": rows, "state": client.state()})
        try:
            client.step({"words": "look"})
        except RuntimeError as error:
            seen.append(str(error))
    json.dump(seen, sys.stdout)


main()
