"""A GRPO update in torch and Hugging Face Transformers, for `bench_learner`.

Reads one JSON line with shapes and a packed batch from standard input, prepares, answers
with a line, and then applies one update for every further line. In its favour: logits of
action tokens only, and the attention mask is made once.
"""

import json
import os
import sys
import time

import numpy as np
import torch
import torch_qwen2


def load(path):
    """The fields of a batch [R, T] that the loss needs, and the attention mask."""
    fields = {k: torch.from_numpy(v) for k, v in np.load(path).items()}
    segments = fields.pop("segment_ids")
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    fields["visible"] = (same & causal)[:, None]
    fields["mask"] = fields.pop("rl_weights")[:, 1:] != 0
    return fields


def compute_loss(model, fields):
    """Clipped surrogate over the action tokens."""
    hidden = model.model(
        input_ids=fields["tokens"].long(),
        position_ids=fields["positions"].long(),
        attention_mask=fields["visible"],
        use_cache=False,
    ).last_hidden_state
    mask = fields["mask"]
    logits = model.lm_head(hidden[:, :-1][mask])
    chosen = fields["tokens"][:, 1:][mask].long()
    logprobs = -torch.nn.functional.cross_entropy(logits, chosen, reduction="none")
    ratio = (logprobs - fields["behavior_logprobs"][:, 1:][mask]).exp()
    advantages = fields["advantages"][:, 1:][mask]
    clipped = ratio.clip(0.8, 1.28)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def main():
    """Answers every line of standard input with one update."""
    spec = json.loads(sys.stdin.readline())
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    model, fields = torch_qwen2.make_model(spec["model"]).train(), load(spec["batch"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        compute_loss(model, fields).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step()
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
