import math

import pytest

from agentrl import errors
from agentrl.pretrained import names, presets

# Numbers of parameters as the models' pages state them, tied matrices counted once.
PARAMETERS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
}


def test_presets_have_the_published_numbers_of_parameters():
    counts = {
        name: sum(math.prod(t.shape) for t in names.table(config).values())
        for name, config in presets.PRESETS.items()
    }
    assert counts == PARAMETERS


def test_an_unknown_preset_is_named():
    with pytest.raises(errors.ConfigError, match=r"'qwen9'.*qwen2\.5-0\.5b"):
        presets.get("qwen9")
