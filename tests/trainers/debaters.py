"""Teachers that say what a test tells them, and models that can read long debates."""

import json

from trainer_cases import write_model

from agentbench.engines.scripted import ScriptedEngine
from agentbench.trainers.teachers.speaking import Speaker
from agentbench.training.config import SpeakerConfig

TEXTS = {
    "first": "FIRST $me [$state] $action",
    "later": "LATER $me [$state] $action {$transcript}",
    "answer": "$me read {$transcript}",
}


def write_long(folder, tokenizer, **values):
    """A tiny model whose context holds a debate."""
    path = write_model(folder, tokenizer, **values)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": 4096}))
    return path


class Script:
    """An engine that answers prompts, as text, by a function; keeps the texts it was asked."""

    def __init__(self, answer, tokenizer, **values):
        self.prompts = []

        def reply(request):
            prompt = tokenizer.decode(request.token_ids, skip_special_tokens=True)
            self.prompts.append(prompt)
            return answer(prompt)

        self.engine = ScriptedEngine(reply, tokenizer, **values)


def speaker(answer, tokenizer, *, seed=0, max_context=8192, **config):
    """A speaker by a script, with the script as `script`."""
    script = Script(answer, tokenizer, max_context=max_context)
    made = Speaker(script.engine, SpeakerConfig(**({"max_new_tokens": 60} | config)), seed)
    made.script = script
    return made
