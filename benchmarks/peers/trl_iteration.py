"""GRPO iterations of TRL on TextCraft, for `bench_iteration`; runs in TRL's environment.

Reads one JSON line with shapes, weights and settings from standard input, prepares, answers
with a line, and then makes one iteration for every further line. Episodes are played as
TRL's own loop over tools does: all live episodes generate together, and every turn reads
its whole context again. The environments are called directly, without a process between.
"""

import json
import os
import pathlib
import sys
import time

import datasets
import numpy as np
import torch
import torch_qwen2
import transformers
import trl

from agentrl.chat import renderer, tokenizer
from agentrl.envs import base, registry

ANSWERS, sys.stdout = sys.stdout, sys.stderr  # the trainer prints
PROJECTIONS = {"query": "q", "key": "k", "value": "v"}


def make_model(shape, weights):
    """A Qwen2 with the weights of ours."""
    model = torch_qwen2.make_model(shape, bos_token_id=None, pad_token_id=0)
    size = shape["hidden_size"]
    state = {
        "model.embed_tokens.weight": weights["embedding"],
        "model.norm.weight": weights["norm/scale"],
        "lm_head.weight": weights["head"].T,
    }
    for layer in range(shape["num_layers"]):
        ours, theirs = f"blocks/{layer}", f"model.layers.{layer}"
        for name, letter in PROJECTIONS.items():
            kernel = weights[f"{ours}/attention/{name}"]
            bias = weights[f"{ours}/attention/{name}_bias"]
            state[f"{theirs}.self_attn.{letter}_proj.weight"] = kernel.reshape(
                size, -1
            ).T
            state[f"{theirs}.self_attn.{letter}_proj.bias"] = bias.reshape(-1)
        out = weights[f"{ours}/attention/out"].reshape(-1, size).T
        state[f"{theirs}.self_attn.o_proj.weight"] = out
        for name in ("gate", "up", "down"):
            state[f"{theirs}.mlp.{name}_proj.weight"] = weights[f"{ours}/mlp/{name}"].T
        scales = {
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "mlp_norm",
        }
        for name, scale in scales.items():
            state[f"{theirs}.{name}.weight"] = weights[f"{ours}/{scale}/scale"]
    model.load_state_dict(
        {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}
    )
    return model


class Player:
    """Plays groups of episodes: TRL's `rollout_func`."""

    def __init__(self, spec, tokenizer):
        self.chat = renderer.Chat(tokenizer, spec["frame"])
        self.spec, self.envs = spec, {}
        self.counts = {"tokens": 0, "action_tokens": 0, "turns": 0}

    def __call__(self, prompts, trainer):
        """Token ids, masks and returns of one episode for each prompt, an item id."""
        contexts, openings, masks, returns = [], [], [], [0.0] * len(prompts)
        for index, item in enumerate(prompts):
            env = self.envs.setdefault(index, self.make_env())
            observation = env.reset(item)
            contexts.append(list(self.chat.open(env.instruction, observation)))
            openings.append(len(contexts[-1]))
            masks.append([])
        live = list(range(len(prompts)))
        while live:
            actions = self.generate(trainer.model, [contexts[i] for i in live])
            live = [
                index
                for index, action in zip(live, actions, strict=True)
                if self.take(index, action, contexts[index], masks[index], returns)
            ]
        completions = [c[n:] for c, n in zip(contexts, openings, strict=True)]
        self.counts["tokens"] += sum(map(len, contexts))
        self.counts["action_tokens"] += sum(map(sum, masks))
        return {
            "prompt_ids": [c[:n] for c, n in zip(contexts, openings, strict=True)],
            "completion_ids": completions,
            "logprobs": None,
            "env_mask": masks,
            "episode_return": returns,
        }

    def make_env(self):
        """One environment; they are reset for every episode."""
        options = self.spec["env_config"]
        return registry.make("textcraft", base.EnvConfig(**options))

    def generate(self, model, contexts):
        """The next action of each context, stop token included."""
        width = max(map(len, contexts))
        tokens = torch.zeros(len(contexts), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, context in enumerate(contexts):
            tokens[row, width - len(context) :] = torch.tensor(context)
            mask[row, width - len(context) :] = 1
        stop = self.chat.tokenizer.stop_id
        with torch.no_grad():
            out = model.generate(
                tokens,
                attention_mask=mask,
                max_new_tokens=self.spec["max_action_tokens"],
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                eos_token_id=stop,
                pad_token_id=stop,
            )
        rows = out[:, width:].tolist()
        return [r[: r.index(stop) + 1] if stop in r else r for r in rows]

    def take(self, index, action, context, mask, returns):
        """Plays one action; true if the episode goes on."""
        context += action
        mask += [1] * len(action)
        self.counts["turns"] += 1
        if action[-1] != self.chat.tokenizer.stop_id:
            return False
        env = self.envs[index]
        result = env.step(self.chat.tokenizer.decode(action))
        returns[index] += result.reward
        observed = list(self.chat.extend(result.observation))
        full = len(context) + len(observed) >= self.spec["max_tokens"]
        if result.done or full:
            return False
        context += observed
        mask += [0] * len(observed)
        return True


class Rounds(transformers.TrainerCallback):
    """Lets one optimizer step pass for every line of standard input."""

    def __init__(self, player):
        self._player = player

    def on_step_begin(self, args, state, control, **kwargs):
        """Waits for the next line; generation comes before this event's step ends."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Says that all is ready."""
        print(json.dumps({"trl": trl.__version__}), file=ANSWERS, flush=True)
        self._wait()

    def on_step_end(self, args, state, control, **kwargs):
        """Answers a round and waits for the next."""
        found = {
            "wall": time.perf_counter() - self._wall,
            "cpu": time.process_time() - self._cpu,
            **self._player.counts,
        }
        print(json.dumps(found), file=ANSWERS, flush=True)
        self._wait()

    def _wait(self):
        if not sys.stdin.readline():
            os._exit(0)
        self._player.counts = dict.fromkeys(self._player.counts, 0)
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def episode_return(completions, episode_return, **kwargs):
    """The environment's own return as the reward."""
    return episode_return


def main():
    """Trains until standard input ends."""
    spec = json.loads(sys.stdin.readline())
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    loaded = tokenizer.load("sentencepiece", pathlib.Path(spec["tokenizer"]))
    player = Player(spec, loaded)
    count = spec["groups"] * spec["group_size"]
    settings = trl.GRPOConfig(
        output_dir=spec["folder"],
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=count // spec["microbatches"],
        gradient_accumulation_steps=spec["microbatches"],
        num_generations=spec["group_size"],
        max_completion_length=spec["max_tokens"],
        beta=0.0,
        temperature=1.0,
        learning_rate=spec["learning_rate"],
        max_steps=10**6,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    pieces = [[f"p{i}", 0.0] for i in range(spec["model"]["vocab_size"])]
    import tokenizers

    trainer = trl.GRPOTrainer(
        model=make_model(spec["model"], np.load(spec["weights"])),
        reward_funcs=episode_return,
        args=settings,
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": i} for i in spec["items"]]
        ),
        # Only decodes for logs; ids come from `Player`.
        processing_class=transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(
                tokenizers.models.Unigram([tuple(p) for p in pieces], unk_id=0)
            ),
            pad_token="p0",
            eos_token=f"p{loaded.stop_id}",
        ),
        rollout_func=player,
        callbacks=[Rounds(player)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
