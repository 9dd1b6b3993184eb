"""Exported folders: their files, and what they say of themselves."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers
from e2e import recall_experiment

from agentrl import config, errors
from agentrl.chat import renderer, tokenizer
from agentrl.export import convert, model_card
from agentrl.models import model_config, transformer
from agentrl.parallel import sharding
from agentrl.pretrained import safetensors_io
from agentrl.sources import locate
from tests.chat import chat_families

SHAPE = model_config.ModelConfig(
    vocab_size=264,
    hidden_size=16,
    num_layers=2,
    head_dim=8,
    mlp_size=24,
    rope_theta=1e6,
)
BYTES = config.TokenizerConfig(kind="bytes", frame="plain")


def make_settings(shape=SHAPE, tokenizer=BYTES, **changes):
    settings = recall_experiment.get_config()
    return dataclasses.replace(settings, model=shape, tokenizer=tokenizer, **changes)


def make_params(shape=SHAPE):
    return transformer.Model(shape).init(jax.random.key(0))


@pytest.fixture
def exported(tmp_path):
    """A policy on bytes."""
    chat = renderer.Chat(tokenizer.ByteTokenizer(), "plain")
    convert.write_policy(make_settings(), chat, make_params(), tmp_path / "out")
    return tmp_path / "out"


def load(folder):
    found = locate.find.__wrapped__(str(folder))
    shapes = jax.eval_shape(transformer.Model(found.config).init, jax.random.key(0))
    mesh = sharding.make_mesh(config.MeshConfig())
    return found, found.load(sharding.with_shardings(shapes, mesh))


def read(path):
    return json.loads(path.read_text())


def test_a_vocabulary_of_ones_own_survives_transformers(exported):
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    text = "It's  e\u0301 \U0001f600\n\n"
    assert theirs.encode(text) == list(text.encode())
    assert read(exported / "config.json")["model_type"] == "llama"


def test_the_folder_is_read_back_as_the_same_model(exported):
    found, params = load(exported)
    assert found.config == dataclasses.replace(SHAPE)
    jax.tree.map(np.testing.assert_array_equal, params, make_params())
    names = (safetensors_io.SINGLE, "config.json")
    assert len({(exported / name).stat().st_mode for name in names}) == 1


def test_biases_after_the_attention_are_refused_unless_zero(exported):
    path = exported / safetensors_io.SINGLE
    tensors = safetensors.numpy.load_file(path)
    tensors["model.layers.1.self_attn.o_proj.bias"][3] = 1.0
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(errors.CheckpointError, match=r"layers\.1.*o_proj\.bias"):
        load(exported)


def test_generation_stops_and_samples_as_the_policy_does(exported):
    found = read(exported / "generation_config.json")
    assert found == {
        "eos_token_id": [257],
        "pad_token_id": 257,
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "suppress_tokens": [258, 259, 260, 261, 262, 263],
    }
    assert read(exported / "config.json")["eos_token_id"] == [257]


@pytest.mark.parametrize("frame", ["plain", "bare"])
def test_a_published_tokenizer_leaves_without_code_or_settings_of_others(
    tmp_path, frame
):
    given = tmp_path / "given"
    made = chat_families.make_family("smollm2")
    made.save_pretrained(given)
    settings = {"eos_token_id": [2, 0], "repetition_penalty": 1.1, "bos_token_id": 1}
    (given / "generation_config.json").write_text(json.dumps(settings))
    path = given / "tokenizer_config.json"
    listed = {"auto_map": {"AutoTokenizer": [None, "x.Y"]}, "extra_special_tokens": []}
    path.write_text(json.dumps(read(path) | listed))
    wanted = config.TokenizerConfig(kind="huggingface", path=str(given), frame=frame)
    shape = dataclasses.replace(SHAPE, vocab_size=400, qkv_bias=False)
    loaded = tokenizer.load("huggingface", given)
    chat = renderer.Chat(loaded, frame)
    out = tmp_path / "out"
    convert.write_policy(make_settings(shape, wanted), chat, make_params(shape), out)
    fields = read(out / "tokenizer_config.json")
    assert (
        fields["tokenizer_class"] == "PreTrainedTokenizerFast"
    )  # both releases know it
    assert not {"auto_map", "extra_special_tokens"} & set(fields)
    generation = read(out / "generation_config.json")
    assert generation["eos_token_id"] == list(loaded.stop_ids)
    assert "repetition_penalty" not in generation
    back = transformers.AutoTokenizer.from_pretrained(out)
    asked = [{"role": "user", "content": "go"}]
    text = back.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert back.encode(text) == chat.context([renderer.Message("user", "go")])


def test_adapters_beside_rounded_kernels_say_so(tmp_path, capsys):
    lora = model_config.LoraConfig(rank=2, int8_base=True)
    settings = make_settings(lora=lora, weights="/models/base")
    card = model_card.of_adapters(settings, source="a run", dtype=None)
    card.write(tmp_path)
    for said in ((tmp_path / "README.md").read_text(), capsys.readouterr().out):
        assert "kernels rounded to 8 bits" in said and "/models/base" in said
    exact = dataclasses.replace(
        settings, lora=dataclasses.replace(lora, int8_base=False)
    )
    model_card.of_adapters(exact, source="a run", dtype=None).write(tmp_path)
    assert "In nothing." in (tmp_path / "README.md").read_text()
    assert not capsys.readouterr().out


def test_a_model_says_what_differs():
    shape = dataclasses.replace(
        SHAPE, critic=True, precision=model_config.Precision(compute="bfloat16")
    )
    chat = renderer.Chat(tokenizer.ByteTokenizer(), "bare", few_shot=2)
    card = model_card.of_model(
        make_settings(shape), chat, source="a run", model_type="llama", dtype="float16"
    )
    said = "\n".join(card.differences)
    for part in ("float16", "bfloat16", "critic", "2 solved tasks", "last 6 ids"):
        assert part in said
    assert any("transformers 5" in fact for fact in card.facts)
