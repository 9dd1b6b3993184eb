"""Exported folders in the hands of `transformers` 4 and 5: ids, answers and their ends.

AGENTRL_TRANSFORMERS lists interpreters (separated as in PATH) with torch and a release of
transformers each; without it, this interpreter is taken if it has torch.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.parity import exported

SCRIPT = pathlib.Path(__file__).with_name("generate_from_folders.py")
LISTED = os.environ.get("AGENTRL_TRANSFORMERS", "")
INTERPRETERS = LISTED.split(os.pathsep) if LISTED else [sys.executable]
pytestmark = pytest.mark.skipif(
    not LISTED and importlib.util.find_spec("torch") is None,
    reason="no torch here, and AGENTRL_TRANSFORMERS names no interpreter",
)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    return {
        name: exported.make(name, tmp_path_factory.mktemp(name))
        for name in exported.CASES
    }


@pytest.fixture(scope="module", params=INTERPRETERS)
def found(request, policies):
    """What one release makes of all folders."""
    asked = {
        name: {
            "folder": made.folder,
            "texts": exported.texts(exported.NUM_TEXTS),
            "messages": [
                [{"role": m.role, "content": m.text} for m in messages]
                for messages in conversations(made)
            ],
            "prompts": made.prompts,
            "max_new_tokens": exported.MAX_NEW_TOKENS,
        }
        for name, made in policies.items()
    }
    done = subprocess.run(
        [request.param, "-P", str(SCRIPT)],
        input=json.dumps({"folders": asked}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    read = json.loads(done.stdout)
    print(f"transformers {read['version']}")
    return read["folders"]


def conversations(made):
    """The openings without markers, and without white space that templates strip."""
    markers = re.compile(r"<\|\w+\|>|<pad>|<unk>")
    return [
        [
            dataclasses.replace(message, text=markers.sub("", message.text).strip())
            for message in messages
        ]
        for messages in made.messages
    ]


@pytest.mark.parametrize("name", exported.CASES)
def test_greedy_answers_are_those_of_the_policy(policies, found, name):
    made = policies[name]
    stops = made.chat.tokenizer.stop_ids
    ended = {answer[-1] for answer in made.answers} & set(stops)
    assert ended and max(map(len, made.answers)) > 4
    assert found[name]["answers"] == made.answers
    assert not found[name]["missing"] and not found[name]["unexpected"]
    assert made.model_type == exported.CASES[name][3]


@pytest.mark.parametrize("name", exported.CASES)
def test_ids_of_texts_are_those_of_the_policy(policies, found, name):
    tokenizer = policies[name].chat.tokenizer
    expected = exported.texts(exported.NUM_TEXTS)
    for text, ids, back in zip(
        expected, found[name]["ids"], found[name]["texts"], strict=True
    ):
        assert ids == tokenizer.encode(text)
        assert back == tokenizer.decode(ids)


@pytest.mark.parametrize("name", exported.CASES)
def test_rendered_conversations_are_the_contexts_of_the_policy(policies, found, name):
    made = policies[name]
    if made.chat.frame != "bare" and "date" in made.chat.delimiters.exceptions:
        pytest.skip("the template prints the day, contexts a fixed one")
    expected = [made.chat.context(messages) for messages in conversations(made)]
    assert found[name]["rendered"] == expected
