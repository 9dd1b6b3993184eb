"""Small random policies of every family, exported, with what they answer greedily."""

import dataclasses
import random

import jax
import numpy as np
import transformers
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers.models.qwen2 import tokenization_qwen2

from agentrl import config
from agentrl.chat import renderer, tokenizer
from agentrl.engine import engine
from agentrl.export import convert
from agentrl.models import model_config, transformer
from agentrl.parallel import sharding
from tests.chat import chat_families
from tests.e2e import recall_experiment

NUM_PROMPTS, NUM_TEXTS, MAX_NEW_TOKENS = 50, 1000, 24
ROLLOUT = config.RolloutConfig(
    max_tokens=512,
    max_action_tokens=MAX_NEW_TOKENS,
    temperature=0.0,
    num_slots=56,  # NUM_PROMPTS, and a multiple of the devices
    append_buckets=(512,),
    cache_buckets=(1024,),
)
SHAPE = model_config.ModelConfig(
    vocab_size=448,
    hidden_size=32,
    num_layers=2,
    head_dim=8,
    mlp_size=48,
    rope_theta=1e6,
)
LLAMA = dataclasses.replace(SHAPE, qkv_bias=False, rope_theta=5e5, norm_epsilon=1e-5)
LLAMA3 = model_config.RopeScaling(kind="llama3", factor=32.0, original_context=64)
LINEAR = model_config.RopeScaling(kind="linear", factor=2.0)
QWEN3 = dataclasses.replace(SHAPE, qkv_bias=False, qk_norm=True)
UNTIED = {"tied_embeddings": False}
# Name -> (shape, tokenizer, frame, type of model in config.json).
CASES = {
    "qwen2.5": (SHAPE, "qwen2.5", "plain", "qwen2"),
    "qwen2.5-untied": (
        dataclasses.replace(SHAPE, **UNTIED),
        "qwen2.5",
        "bare",
        "qwen2",
    ),
    "qwen3": (QWEN3, "qwen3", "agentgym", "qwen3"),
    "qwen3-untied": (dataclasses.replace(QWEN3, **UNTIED), "qwen3", "plain", "qwen3"),
    "smollm2": (LLAMA, "smollm2", "plain", "llama"),
    "llama3": (
        dataclasses.replace(LLAMA, rope_scaling=LLAMA3, **UNTIED),
        "llama3",
        "plain",
        "llama",
    ),
    "llama3.2": (
        dataclasses.replace(LLAMA, rope_scaling=LLAMA3),
        "llama3.2",
        "agentgym",
        "llama",
    ),
    "linear": (
        dataclasses.replace(LLAMA, rope_scaling=LINEAR),
        "smollm2",
        "bare",
        "llama",
    ),
    # Vocabularies that transformers 5 would take for Qwen's if the model were a Qwen2.
    "distilled": (SHAPE, "smollm2", "plain", "llama"),
    "own": (SHAPE, "train_sentencepiece", "bare", "llama"),
    "own-untied": (
        dataclasses.replace(SHAPE, **UNTIED),
        "train_sentencepiece",
        "agentgym",
        "llama",
    ),
    "own-qwen3": (QWEN3, "train_sentencepiece", "plain", "qwen3"),
    "bytes": (SHAPE, "bytes", "plain", "llama"),
    "bytes-llama": (LLAMA, "bytes", "bare", "llama"),
}
PIECES = [
    *chat_families.CHATML,
    *chat_families.LLAMA,
    *("go to red ball", " You see a cup.", "user", "<think>", "12 logs", "don't", "\t"),
    *(
        "  ",
        "   ",
        "\n",
        "\n\n",
        " \n",
        "\U0001f600",
        "é",
        "e\u0301",
        "東京",
        "№",
    ),
    *(
        "\u2581",
        "<0x41>",
        "<unk>",
        "<pad>",
        "\r\n",
        "\u00a0",
        "-----",
        "Action:\n",
        ".",
    ),
]


def texts(count, seed=0):
    """Texts of words, markers, emoji, line ends and runs of spaces."""
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(count)]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A folder, and the policy that it was made of."""

    folder: str
    chat: renderer.Chat
    messages: list[list[renderer.Message]]
    prompts: list[list[int]]
    answers: list[list[int]]
    model_type: str


def make(name, folder):
    """Exports one of `CASES`."""
    shape, vocabulary, frame, _ = CASES[name]
    tokenizer, wanted = _tokenizer(vocabulary, frame, folder / "given")
    settings = dataclasses.replace(
        recall_experiment.get_config(), model=shape, tokenizer=wanted
    )
    chat = renderer.Chat(tokenizer, frame)
    params = _params(shape, tokenizer.stop_ids)
    model_type = convert.write_policy(settings, chat, params, folder / "out")
    instructions, observations = texts(NUM_PROMPTS, seed=1), texts(NUM_PROMPTS, seed=2)
    messages = [
        chat.episode(instruction, [(observation, "")], "")[:-1]
        for instruction, observation in zip(instructions, observations, strict=True)
    ]
    prompts = [chat.context(opening) for opening in messages]
    answers = _answers(shape, params, tokenizer, prompts)
    return Exported(str(folder / "out"), chat, messages, prompts, answers, model_type)


def _tokenizer(vocabulary, frame, folder):
    """A tokenizer as a run loads it, and the run's settings of it."""
    folder.mkdir(parents=True)
    if vocabulary == "bytes":
        wanted = config.TokenizerConfig(kind="bytes", frame=frame)
        return tokenizer.ByteTokenizer(), wanted
    if vocabulary == "train_sentencepiece":
        wanted = config.TokenizerConfig(vocab_size=400, frame=frame)
        corpus = [*chat_families.TEXTS * 4, *texts(200, seed=3)]
        return tokenizer.SentencePieceTokenizer.train(corpus, 400), wanted
    made = chat_families.make_family(vocabulary)
    if vocabulary == "qwen2.5":  # cut texts as Qwen's own tokenizer does
        rule = Regex(tokenization_qwen2.PRETOKENIZE_REGEX)
        made.backend_tokenizer.normalizer = normalizers.NFC()
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(rule, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    made.save_pretrained(folder)
    first = made.convert_tokens_to_ids(chat_families.FAMILIES[vocabulary][0][0])
    settings = transformers.GenerationConfig(
        eos_token_id=[made.eos_token_id, first],
        do_sample=True,
        repetition_penalty=1.3,
        top_k=20,
    )
    settings.save_pretrained(folder)
    wanted = config.TokenizerConfig(kind="huggingface", path=str(folder), frame=frame)
    return tokenizer.load("huggingface", folder), wanted


def _params(shape, stop_ids):
    """Random parameters, norms and biases too, that like to stop."""
    leaves, tree = jax.tree.flatten(transformer.Model(shape).init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    params = jax.tree.unflatten(tree, noisy)
    stops = np.array(stop_ids)
    if "head" in params:
        params["head"] = params["head"].at[:, stops].mul(1.5)
    else:
        params["embedding"] = params["embedding"].at[stops].mul(1.5)
    return params


def _answers(shape, params, tokenizer, prompts):
    """What the policy writes."""
    mesh = sharding.make_rollout_mesh(config.MeshConfig())
    acting = engine.Engine(
        transformer.Model(shape),
        mesh,
        ROLLOUT,
        stop_tokens=tokenizer.stop_ids,
        num_valid_tokens=tokenizer.vocab_size,
    )
    placed = jax.device_put(params, sharding.replicated(mesh))
    cohort = acting.new_cohort()
    rows = {
        row: engine.SlotInput(prompt, (row, 0), MAX_NEW_TOKENS)
        for row, prompt in enumerate(prompts)
    }
    pending = acting.dispatch(placed, cohort, rows, jax.random.key(0))
    actions = acting.fetch(cohort, pending)
    return [actions[row].tokens.tolist() for row in range(len(prompts))]
