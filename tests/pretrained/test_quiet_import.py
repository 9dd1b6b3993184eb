"""What `transformers` says when we import it, and what it still may say."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# As where PyTorch is not installed.
CODE = """
import importlib.util as util
find = util.find_spec
util.find_spec = lambda name, *more: None if name == "torch" else find(name, *more)
import {module}
import transformers
assert not transformers.utils.is_torch_available()
logger = transformers.utils.logging.get_logger("transformers")
logger.warning("a fault")
logger.warning_advice("other advice")
"""


@pytest.mark.parametrize(
    "module",
    [
        "agentrl.chat.chat_template",
        "agentrl.chat.huggingface",
        "agentrl.pretrained.gguf_tokenizer",
        "agentrl.pretrained.tokenizer_json",
    ],
)
def test_only_the_advice_to_install_pytorch_is_silent(module):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(module=module)],
        cwd=ROOT,
        # Where `CI` is set, `transformers` repeats its messages to the root logger.
        env={name: value for name, value in os.environ.items() if name != "CI"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "[transformers] a fault",
        "[transformers] other advice",
    ]
