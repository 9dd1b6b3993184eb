"""Small models' folders with the chat templates of real families."""

import pathlib

import tokenizers
import transformers

TEMPLATES = pathlib.Path(__file__).parents[1] / "data" / "chat_templates"
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = [
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
# Template: special tokens, beginning and end of text, words that were added.
FAMILIES = {
    "qwen2.5": (CHATML, None, "<|im_end|>", ()),
    "qwen3": (CHATML, None, "<|im_end|>", ("<think>", "</think>")),
    "smollm2": (CHATML, "<|im_start|>", "<|im_end|>", ()),
    "llama3": (LLAMA, "<|begin_of_text|>", "<|eot_id|>", ()),
    "llama3.2": (LLAMA, "<|begin_of_text|>", "<|eot_id|>", ()),
}
TEXTS = [
    "You are in a room. You see a red ball, 2 steps forward.\n\nAvailable actions: go to",
    "Thought:\nI need planks. It's dark.\n\nAction:\nget 1 oak logs",
    "system user assistant You are a helpful assistant. Cutting Knowledge Date: 2023\n",
]
# Words, numbers, punctuation with line ends: where real vocabularies cut a text.
PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def make_tokenizer(
    template: str, special, bos, eos, words=()
) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some 400 ids."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(
                add_prefix_space=False, use_regex=False
            ),
        ]
    )
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    model.train_from_iterator(TEXTS * 4, trainer)
    model.add_special_tokens(special)
    model.add_tokens(list(words))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token=bos, eos_token=eos, chat_template=template
    )


def make_family(name: str) -> transformers.PreTrainedTokenizerFast:
    """A small tokenizer with the template and special tokens of a family."""
    template = (TEMPLATES / f"{name}.jinja").read_text()
    return make_tokenizer(template, *FAMILIES[name])
