"""What a release of transformers makes of exported folders; runs in its interpreter.

Reads from standard input {"folders": {name: {"folder", "texts", "messages", "prompts",
"max_new_tokens"}}} and writes what AutoTokenizer and generate make of them.
"""

import json
import sys

import torch
import transformers


def read(folder, texts, messages, prompts, max_new_tokens):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        answers.append(written[0, len(prompt) :].tolist())
    ids = [
        tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        for text in texts
    ]
    return {
        "ids": ids,
        "texts": [tokenizer.decode(found) for found in ids],
        "rendered": [
            tokenizer.encode(
                tokenizer.apply_chat_template(
                    message, add_generation_prompt=True, tokenize=False
                ),
                add_special_tokens=False,
            )
            for message in messages
        ],
        "answers": answers,
        "missing": sorted(map(str, loading["missing_keys"])),
        "unexpected": sorted(map(str, loading["unexpected_keys"])),
    }


def main():
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    asked = json.load(sys.stdin)["folders"]
    found = {name: read(**fields) for name, fields in asked.items()}
    json.dump({"version": transformers.__version__, "folders": found}, sys.stdout)


if __name__ == "__main__":
    main()
