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
    """Measures how long JAX traces, lowers or compiles, in whatever thread.

    Reads the log, as Tunix removes all listeners to JAX's events.
    """

    def __init__(self):
        super().__init__()
        self._spans = []  # disjoint, ascending
        jax.config.update("jax_log_compiles", True)
        logger = logging.getLogger("jax._src.dispatch")
        logger.handlers, logger.propagate = [self], False
        logger.setLevel(logging.DEBUG)
        logging.getLogger("jax._src.interpreters.pxla").setLevel(logging.ERROR)

    def emit(self, record):
        """Takes one log message in."""
        message = record.getMessage()
        if not message.startswith("Finished"):
            return
        end = time.perf_counter()
        start = end - float(message.rsplit(" in ", 1)[1].split()[0])
        while self._spans and self._spans[-1][1] > start:
            start = min(start, self._spans.pop()[0])
        self._spans.append((start, end))

    @property
    def seconds(self):
        """What has been measured so far."""
        with self.lock:
            return sum(end - start for start, end in self._spans)


def make_tokenizer(vocab_size):
    """One token for each character, and for each role of the chat template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    roles = ["system\n", "user\n", "assistant\n"]
    letters = [*string.printable[:96], "\n"]
    filler = (chr(0x20000 + i) for i in itertools.count())
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


def make_mesh():
    """One device, as Tunix's sharding names its axes."""
    devices = np.array(jax.devices()[:1]).reshape(1, 1)
    return jax.sharding.Mesh(devices, ("fsdp", "tp"))


def make_cluster(
    mesh,
    model,
    tokenizer,
    *,
    opening,
    response,
    stops,
    optimizer,
    groups,
    microbatches=1,
):
    """What the agentic path trains and samples with, a new seed for every call."""
    role = rl_cluster.Role
    cluster = rl_cluster.RLCluster(
        actor=model,
        tokenizer=tokenizer,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(
                (role.ACTOR, role.REFERENCE, role.ROLLOUT), mesh
            ),
            rollout_engine="vanilla",
            offload_to_cpu=False,
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=response,
                max_prompt_length=opening,
                # Prompts are padded to a power of 2, and a whole response follows.
                kv_cache_size=(1 << (opening + response).bit_length()) + response,
                temperature=1.0,
                top_p=1.0,
                return_logprobs=True,
                eos_tokens=stops,
            ),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optimizer,
                eval_every_n_steps=10**6,
                max_steps=10**6,
                mini_batch_size=groups,
                train_micro_batch_size=groups // microbatches,
            ),
        ),
    )
    seeds, generate = itertools.count(1), cluster.rollout.generate
    cluster.rollout.generate = lambda prompts, config, **kwargs: generate(
        prompts, dataclasses.replace(config, seed=next(seeds)), **kwargs
    )
    return cluster


def make_learner(cluster, parser, env_class, *, group_size, response, turns):
    """The agentic learner around one class of environments."""
    return agentic_grpo_learner.GRPOLearner(
        rl_cluster=cluster,
        algo_config=agentic_grpo_learner.GRPOConfig(
            num_generations=group_size,
            beta=0.0,
            max_response_length=response,
            max_concurrency=1,  # of several, one would work while another compiles
            system_prompt="",
        ),
        chat_parser=parser,
        agent_class=Agent,
        agent_kwargs={},
        env_class=env_class,
        env_kwargs={"max_steps": turns},
    )


class Agentic:
    """The agentic learner, whose clock stops where the update would begin."""

    def __init__(self, spec, mesh, clock):
        tokenizer = make_tokenizer(spec["model"]["vocab_size"])
        num_stops = spec["model"]["vocab_size"] // spec["mean_action"]
        cluster = make_cluster(
            mesh,
            make_model(spec["model"], mesh)[1],
            tokenizer,
            opening=spec["opening"],
            response=spec["response"],
            stops=list(range(8, 8 + num_stops)),
            optimizer=optax.sgd(0.0),
            groups=spec["groups"],
        )
        self.clock, self.cluster = clock, cluster
        self.generate, cluster.generate = cluster.generate, self.count
        self.update, cluster.update_actor = cluster.update_actor, self.stop
        self.learner = make_learner(
            cluster,
            Parser(tokenizer, enable_thinking=True),
            make_environment(spec),
            group_size=spec["group_size"],
            response=spec["response"],
            turns=spec["turns"],
        )
        prompts = [f"task {i}" for i in range(spec["groups"])]
        self.batch = {"prompts": np.array(prompts)}

    def count(self, *args, **kwargs):
        """Generates, and counts what was generated."""
        out = self.generate(*args, **kwargs)
        self.tokens += len(out.tokens[0]) + 1  # the stop token is cut off
        self.calls += 1
        return out

    def read_clocks(self):
        """Seconds on the wall, of the processor, and of compiling so far."""
        return time.perf_counter(), time.process_time(), self.clock.seconds

    def stop(self, *args, **kwargs):
        """Updates; the first update of a batch ends what is measured."""
        self.end = self.end or self.read_clocks()
        return self.update(*args, **kwargs)

    def play(self):
        """One batch of groups."""
        self.tokens, self.calls, self.end = 0, 0, None
        start = self.read_clocks()
        # Tunix skips as many batches as it has trained on.
        self.learner.train([self.batch] * (self.cluster.global_steps + 1))
        wall, cpu, compiled = np.subtract(self.end, start).tolist()
        return {
            "tokens": self.tokens,
            "calls": self.calls,
            "wall": wall - compiled,
            "cpu": cpu - compiled,
            "compile": compiled,
        }


def main():
    """Answers every line of standard input with one round."""
    spec = json.loads(sys.stdin.readline())
    answers, sys.stdout = sys.stdout, sys.stderr  # Tunix prints, too
    mesh = make_mesh()
    clock = CompileClock()
    if spec["part"] == "decode":
        run = prepare_decode(spec, mesh)
    else:
        run = Agentic(spec, mesh, clock).play
    print(json.dumps({}), file=answers, flush=True)
    for _ in sys.stdin:
        before = clock.seconds
        found = run()
        found.setdefault("compile", clock.seconds - before)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
