"""GRPO iterations of google-tunix 0.1.7 on TextCraft, for `bench_iteration`.

Runs in Tunix's environment. Reads one JSON line with shapes, weights and settings from
standard input, prepares, answers with a line, and then makes one iteration of the agentic
learner for every further line. Every token is one character of a private range to Tunix,
so that its conversations hold exactly our tokens. In its favour: a new seed for every
call, compilation is not counted, and the environments are called directly.
"""

import collections
import json
import pathlib
import random
import sys
import time

import jax
import numpy as np
import optax
import tunix_rollout
from tunix.rl.agentic.environments import base_environment

from agentrl.chat import renderer, tokenizer
from agentrl.envs import base, registry

FIRST = 0xE000  # of Unicode's private use area


def to_text(tokens):
    """One character for every token."""
    return "".join(chr(FIRST + token) for token in tokens)


class Characters:
    """The tokenizer of such texts."""

    def __init__(self, stop_id):
        self._stop_id = stop_id

    def encode(self, text, **kwargs):
        """The tokens of a text."""
        del kwargs
        return [ord(letter) - FIRST for letter in text]

    def decode(self, tokens, **kwargs):
        """The text of tokens."""
        del kwargs
        return to_text(map(int, tokens))

    def bos_id(self):
        """None: our contexts have their own first token."""
        return None

    def eos_id(self):
        """What ends an action."""
        return self._stop_id

    def pad_id(self):
        """A token that contexts do not hold."""
        return 0


class Parser:
    """Conversations whose messages are complete already."""

    def parse(self, messages, add_generation_prompt=False, is_first_msg=False):
        """The messages, one after the other."""
        del add_generation_prompt, is_first_msg
        return "".join(message["content"] for message in messages)


def make_environment(spec, chat, counts):
    """The environment class that plays TextCraft."""

    class TextCraft(base_environment.BaseTaskEnv):
        """One episode of the task that the entry names."""

        def __init__(self, entry, max_steps, **kwargs):
            super().__init__(task=dict(entry), max_steps=max_steps, **kwargs)
            config = base.EnvConfig(**spec["env_config"])
            self._env = registry.make("textcraft", config)
            self._used = 0

        def _initial_observation(self):
            observation = self._env.reset(str(np.ravel(self.task["prompts"])[0]))
            return to_text(self._count(chat.open(self._env.instruction, observation)))

        def _step_impl(self, action):
            tokens = [ord(letter) - FIRST for letter in action]
            unfinished = len(tokens) >= spec["max_action_tokens"]
            stop = [] if unfinished else [chat.tokenizer.stop_id]
            self._count(tokens + stop)
            counts["action_tokens"] += len(tokens + stop)
            counts["turns"] += 1
            if unfinished:
                return self._end(0.0)
            result = self._env.step(chat.tokenizer.decode(tokens))
            observed = list(chat.extend(result.observation))
            if result.done or self._used + len(observed) >= spec["max_tokens"]:
                return self._end(result.reward)
            text = to_text(stop + self._count(observed))
            return base_environment.EnvStepResult(text, result.reward, False, {})

        def _count(self, tokens):
            self._used += len(tokens)
            counts["tokens"] += len(tokens)
            return list(tokens)

        def _end(self, reward):
            return base_environment.EnvStepResult("", reward, True, {})

    return TextCraft


def load_weights(model, weights):
    """Puts our weights into a model of theirs."""
    table = [
        (model.embedder.input_embedding, "embedding"),
        (model.final_norm.w, "norm/scale"),
        (model.lm_head.w, "head"),
    ]
    for number, layer in enumerate(model.layers):
        ours, attention, mlp = f"blocks/{number}", layer.attn, layer.mlp
        table += [
            (attention.q_proj.w, f"{ours}/attention/query"),
            (attention.q_bias, f"{ours}/attention/query_bias"),
            (attention.k_proj.w, f"{ours}/attention/key"),
            (attention.k_bias, f"{ours}/attention/key_bias"),
            (attention.v_proj.w, f"{ours}/attention/value"),
            (attention.v_bias, f"{ours}/attention/value_bias"),
            (attention.o_proj.w, f"{ours}/attention/out"),
            (mlp.gate_proj.kernel, f"{ours}/mlp/gate"),
            (mlp.up_proj.kernel, f"{ours}/mlp/up"),
            (mlp.down_proj.kernel, f"{ours}/mlp/down"),
            (layer.input_layernorm.w, f"{ours}/attention_norm/scale"),
            (layer.post_attention_layernorm.w, f"{ours}/mlp_norm/scale"),
        ]
    for parameter, name in table:
        value = parameter.value
        parameter.value = jax.device_put(
            weights[name].reshape(value.shape).astype(value.dtype), value.sharding
        )


class Iterations:
    """The agentic learner, an iteration at a time."""

    def __init__(self, spec, mesh):
        loaded = tokenizer.load("sentencepiece", pathlib.Path(spec["tokenizer"]))
        chat = renderer.Chat(loaded, spec["frame"])
        self.spec, self.counts = spec, collections.Counter()
        self.random = random.Random(0)
        model = tunix_rollout.make_model(spec["model"], mesh)[1]
        load_weights(model, np.load(spec["weights"]))
        response = spec["max_tokens"] - spec["opening"]
        cluster = tunix_rollout.make_cluster(
            mesh,
            model,
            Characters(loaded.stop_id),
            opening=spec["opening"],
            response=response,
            stops=[loaded.stop_id],
            optimizer=optax.adamw(spec["learning_rate"]),
            groups=spec["groups"],
            microbatches=spec["microbatches"],
        )
        self.cluster = cluster
        self.generate, cluster.generate = cluster.generate, self.limit
        self.learner = tunix_rollout.make_learner(
            cluster,
            Parser(),
            make_environment(spec, chat, self.counts),
            group_size=spec["group_size"],
            response=response,
            turns=spec["env_config"]["max_turns"],
        )

    def limit(self, *args, max_generation_steps, **kwargs):
        """Generates no more tokens than one action may have."""
        steps = min(max_generation_steps, self.spec["max_action_tokens"])
        return self.generate(*args, max_generation_steps=steps, **kwargs)

    def run(self):
        """Plays a batch of groups and applies one update."""
        self.counts.clear()
        items = self.random.sample(self.spec["items"], self.spec["groups"])
        wall, cpu = time.perf_counter(), time.process_time()
        # Tunix skips as many batches as it has trained on.
        batches = [{"prompts": np.array(items)}] * (self.cluster.global_steps + 1)
        self.learner.train(batches)
        return {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            **self.counts,
        }


def main():
    """Answers every line of standard input with one iteration."""
    spec = json.loads(sys.stdin.readline())
    answers, sys.stdout = sys.stdout, sys.stderr  # Tunix prints, too
    clock = tunix_rollout.CompileClock()
    trainer = Iterations(spec, tunix_rollout.make_mesh())
    print(json.dumps({}), file=answers, flush=True)
    for _ in sys.stdin:
        before = clock.seconds
        found = trainer.run()
        found["compile"] = clock.seconds - before
        found["wall"] -= found["compile"]
        found["cpu"] -= found["compile"]
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
