"""Hugging Face `generate` on torch, for `bench_rollout`.

Reads one JSON line with the shapes from standard input, prepares, answers with a line,
and then decodes one batch for every further line. A prefill of the same batch is timed
beside every generation and subtracted. Of dynamic and static cache, the faster is taken.
"""

import json
import os
import sys
import time

import torch
import torch_qwen2


def generate(model, prompts, new, cache):
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=new,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        cache_implementation=cache,
    )
    assert out.shape == (prompts.shape[0], prompts.shape[1] + new)
    return time.perf_counter() - wall, time.process_time() - cpu


def main():
    """Answers every line of standard input with one round."""
    spec = json.loads(sys.stdin.readline())
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    no_ends = {"eos_token_id": None, "pad_token_id": 0, "bos_token_id": None}
    model = torch_qwen2.make_model(spec["model"], **no_ends).eval()
    prompts = torch.full((spec["rows"], spec["context"]), 5)
    with torch.inference_mode():
        speeds = {
            cache: min(generate(model, prompts, 16, cache)[1] for _ in range(2))
            for cache in ("dynamic", "static")
        }
        cache = min(speeds, key=speeds.get)
        print(json.dumps({"cache": cache}), flush=True)
        for _ in sys.stdin:
            first = generate(model, prompts, 1, cache)
            whole = generate(model, prompts, spec["new"] + 1, cache)
            found = {
                "tokens": spec["rows"] * spec["new"],
                "wall": whole[0] - first[0],
                "cpu": whole[1] - first[1],
            }
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
