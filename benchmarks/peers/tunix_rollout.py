"""Rollouts of google-tunix 0.1.7, for `bench_rollout`; runs in Tunix's environment.

Reads one JSON line with the shapes from standard input, prepares, answers with a line,
and then plays one round for every further line.

The sampler decodes a batch with a cache of exactly the columns that are needed. The
agentic path runs as shipped, with two changes in its favour: a new seed for every call
(all calls share one as shipped, so groups hold copies of one episode), and roles of
messages that are one token each. Random weights end an action by one of many stop tokens.
"""

import dataclasses
import itertools
import json
import logging
import os
import string
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import optax
import tokenizers
import transformers
from flax import nnx
from tunix.generate import sampler as samplers
from tunix.models.qwen2 import model as qwen2
from tunix.rl import rl_cluster
from tunix.rl.agentic import agentic_grpo_learner
from tunix.rl.agentic.agents import agent_types, base_agent
from tunix.rl.agentic.environments import base_environment
from tunix.rl.agentic.parser.chat_template_parser import parser as chat_parser
from tunix.rl.rollout import base_rollout


class CompileClock(logging.Handler):
    """Adds up the seconds that XLA compiles."""

    def __init__(self):
        super().__init__()
        self.seconds, self.count = 0.0, 0
        jax.config.update("jax_log_compiles", True)
        for name in ("jax._src.dispatch", "jax._src.interpreters.pxla"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [self], False
            logger.setLevel(logging.DEBUG)

    def emit(self, record):
        """Takes one log message in."""
        message = record.getMessage()
        if message.startswith("Finished XLA compilation"):
            self.seconds += float(message.rsplit(" in ", 1)[1].split()[0])
            self.count += 1


def make_tokenizer(vocab_size):
    """One token for each character, and for each role of the chat template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    roles = ["system\n", "user\n", "assistant\n"]
    letters = [*string.printable[:96], "\n"]
    filler = (chr(0x4E00 + i) for i in itertools.count())
    words = list(dict.fromkeys(special + roles + letters))
    words += itertools.islice(filler, vocab_size - len(words))
    vocab = {word: i for i, word in enumerate(words)}
    model = tokenizers.models.WordLevel(vocab, unk_token="<|endoftext|>")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", *roles],
    )
    assert len(tokenizer) == vocab_size
    return tokenizer


def make_model(shape, mesh):
    """A random model of the given shape."""
    settings = qwen2.ModelConfig(
        num_layers=shape["num_layers"],
        vocab_size=shape["vocab_size"],
        embed_dim=shape["hidden_size"],
        hidden_dim=shape["mlp_size"],
        num_heads=shape["num_heads"],
        head_dim=shape["head_dim"],
        num_kv_heads=shape["num_kv_heads"],
        rope_theta=int(shape["rope_theta"]),
        norm_eps=1e-6,
        use_tied_embedding=shape["tied_embeddings"],
        **(
            {"dtype": jax.numpy.float32, "param_dtype": jax.numpy.float32}
            if "param_dtype" in {f.name for f in dataclasses.fields(qwen2.ModelConfig)}
            else {}
        ),
    )

    @nnx.jit
    def build():
        model = qwen2.Qwen2(settings, rngs=nnx.Rngs(0))
        state = nnx.state(model)
        specs = nnx.get_partition_spec(state)
        nnx.update(model, jax.lax.with_sharding_constraint(state, specs))
        return model

    with mesh:
        return settings, build()


def prepare_decode(spec, mesh):
    """Returns a function that decodes one batch and times the decoding alone."""
    settings, model = make_model(spec["model"], mesh)
    tokenizer = make_tokenizer(spec["model"]["vocab_size"])
    cache = samplers.CacheConfig(
        cache_size=spec["context"] + spec["new"],
        num_layers=settings.num_layers,
        num_kv_heads=settings.num_kv_heads,
        head_dim=settings.head_dim,
    )
    sampler = samplers.Sampler(model, tokenizer, cache)
    inner = sampler._compiled_decode_fn
    spent = {}

    def timed(*args):
        jax.block_until_ready(args)
        wall, cpu = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(inner(*args))
        spent["wall"] = time.perf_counter() - wall
        spent["cpu"] = time.process_time() - cpu
        return result

    sampler._compiled_decode_fn = timed
    seeds = itertools.count()

    def run():
        out = sampler(
            ["a" * spec["context"]] * spec["rows"],
            max_generation_steps=spec["new"],
            max_prompt_length=spec["context"],
            temperature=1.0,
            top_p=1.0,
            eos_tokens=[spec["model"]["vocab_size"] + 1],  # never
            seed=next(seeds),
        )
        assert all(len(tokens) == spec["new"] for tokens in out.tokens)
        # The prefill samples the first token of each row.
        return spent | {"tokens": spec["rows"] * (spec["new"] - 1)}

    return run


def make_environment(spec):
    """The environment class that plays the script of `bench_rollout`."""

    class Scripted(base_environment.BaseTaskEnv):
        """Says the same length of text every turn."""

        def __init__(self, entry, max_steps, **kwargs):
            super().__init__(task=dict(entry), max_steps=max_steps, **kwargs)

        def _initial_observation(self):
            # Less the template: system prompt, and six tokens around the message.
            return "." * (spec["opening"] - 6 - 5)

        def _step_impl(self, action):
            return base_environment.EnvStepResult(
                observation="." * (spec["observation"] - 6),
                reward=0.0,
                done=False,
                info={},
            )

    return Scripted


class Agent(base_agent.ConversationAgentBase):
    """Passes observations and actions through."""

    def _observation_to_messages(self, observation, reward, done, info):
        self._messages.append({"role": "user", "content": str(observation)})

    def update_from_model(self, response, **kwargs):
        """Takes in what the model wrote."""
        self._messages.append({"role": "assistant", "content": response})
        step = agent_types.Step(action=response, model_response=response)
        self._trajectory.steps.append(step)
        return agent_types.Action(action=response)


class Parser(chat_parser.QwenChatTemplateParser):
    """Qwen's template for a tokenizer without a token that begins a text."""

    def _init_tokens(self):
        tokens = super()._init_tokens()
        tokens.bos_token = ""
        return tokens


def prepare_agentic(spec, mesh, clock):
    """Returns a function that plays one batch of groups through the agentic learner."""
    tokenizer = make_tokenizer(spec["model"]["vocab_size"])
    num_stops = spec["model"]["vocab_size"] // spec["mean_action"]
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=spec["response"],
        max_prompt_length=spec["opening"],
        kv_cache_size=2 * spec["response"] + spec["opening"],
        temperature=1.0,
        top_p=1.0,
        return_logprobs=True,
        eos_tokens=list(range(8, 8 + num_stops)),
    )
    role = rl_cluster.Role
    cluster = rl_cluster.RLCluster(
        actor=make_model(spec["model"], mesh)[1],
        tokenizer=tokenizer,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(
                (role.ACTOR, role.REFERENCE, role.ROLLOUT), mesh
            ),
            rollout_engine="vanilla",
            offload_to_cpu=False,
            rollout_config=config,
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.sgd(0.0),
                eval_every_n_steps=10**6,
                max_steps=10**6,
                mini_batch_size=spec["groups"],
                train_micro_batch_size=spec["groups"],
            ),
        ),
    )
    seeds = itertools.count(1)
    generate_inner, generate = cluster.rollout.generate, cluster.generate
    cluster.rollout.generate = lambda prompts, config, **kwargs: generate_inner(
        prompts, dataclasses.replace(config, seed=next(seeds)), **kwargs
    )
    counts = {}

    def counted(*args, **kwargs):
        out = generate(*args, **kwargs)
        counts["tokens"] += len(out.tokens[0]) + 1  # the stop token is cut off
        counts["calls"] += 1
        return out

    def stop_clock(*args, **kwargs):
        counts.setdefault("end", time.perf_counter())
        counts.setdefault("cpu_end", time.process_time())
        counts.setdefault("compile_end", clock.seconds)
        return update(*args, **kwargs)

    cluster.generate = counted
    update, cluster.update_actor = cluster.update_actor, stop_clock
    learner = agentic_grpo_learner.GRPOLearner(
        rl_cluster=cluster,
        algo_config=agentic_grpo_learner.GRPOConfig(
            num_generations=spec["group_size"],
            beta=0.0,
            max_response_length=spec["response"],
            max_concurrency=1,
            system_prompt="",
        ),
        chat_parser=Parser(tokenizer, enable_thinking=True),
        agent_class=Agent,
        agent_kwargs={},
        env_class=make_environment(spec),
        env_kwargs={"max_steps": spec["turns"]},
    )
    batch = {"prompts": np.array([f"task {i}" for i in range(spec["groups"])])}

    def run():
        counts.clear()
        counts.update(tokens=0, calls=0)
        wall, cpu, compiled = time.perf_counter(), time.process_time(), clock.seconds
        learner.train([batch])
        compiled = counts["compile_end"] - compiled
        return {
            "tokens": counts["tokens"],
            "calls": counts["calls"],
            "wall": counts["end"] - wall - compiled,
            "cpu": counts["cpu_end"] - cpu - compiled,
            "compile": compiled,
        }

    return run


def main():
    """Answers every line of standard input with one round."""
    spec = json.loads(sys.stdin.readline())
    answers, sys.stdout = sys.stdout, sys.stderr  # Tunix prints, too
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    clock = CompileClock()
    if spec["part"] == "decode":
        run = prepare_decode(spec, mesh)
    else:
        run = prepare_agentic(spec, mesh, clock)
    print(json.dumps({}), file=answers, flush=True)
    for _ in sys.stdin:
        before = clock.seconds
        found = run()
        found.setdefault("compile", clock.seconds - before)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
