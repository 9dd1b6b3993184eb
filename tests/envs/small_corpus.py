"""Four passages and two questions, for tests of SearchQA."""

import json

from agentrl.envs import base, registry

PASSAGES = [
    ("m", "Moon", "The Moon is the only natural satellite of the Earth."),
    ("e", "Earth", "The third planet from the Sun."),
    ("p", "Phobos", "Phobos is a satellite of Mars."),
    ("d", "Deimos", "Deimos is a satellite of Mars."),
]
QUESTIONS = [
    {"question": "What circles the Earth?", "answer": ["Moon", "the Moon"]},
    {"question": "Which letter comes first?", "answer": ["A"]},
]


def write_lines(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def start(options, profile="strict", item=0, **fields):
    env = registry.make(
        "searchqa", base.EnvConfig(profile=profile, options=options, **fields)
    )
    return env, env.reset(f"searchqa_{item}")
