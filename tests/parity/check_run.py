r"""Exports a trained run, and compares what `transformers` makes of it with the policy.

  python -m tests.parity.check_run --workdir=runs/demo \
    --interpreters=.venv/bin/python:.venv-transformers4/bin/python

Prompts are contexts of the run's own stored episodes, cut before one of their answers.
Each interpreter has torch and a release of transformers (`make parity` sets two up); its
greedy answers, ends included, the ids of 1,000 texts and rendered conversations have to
be those of the policy. The exit code is 0 if all are.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import jax

from agentrl import config, session
from agentrl.chat import renderer
from agentrl.engine import engine
from agentrl.envs import base, registry
from agentrl.export import convert
from agentrl.run import assemble
from agentrl.transcripts import episodes
from tests.parity import exported

SCRIPT = pathlib.Path(__file__).with_name("generate_from_folders.py")


def choose_prompts(
    run: assemble.Run, workdir: pathlib.Path, count: int
) -> list[list[renderer.Message]]:
    """Conversations of stored episodes up to an answer, of all their files alike."""
    draw, found = random.Random(0), []
    room = run.config.evaluation.rollout.max_tokens
    files = [path for path in episodes.paths(workdir) if path.stat().st_size]
    for path in files:
        of_file = []
        for episode in draw.sample(list(episodes.read(path)), k=min(200, count)):
            if not episode.turns:
                continue
            env = registry.make(episode.env, base.EnvConfig(**episode.config))
            said = [(turn.observation, turn.action) for turn in episode.turns]
            said = said[: draw.randint(1, len(said))]
            messages = run.chat.episode(env.instruction, said, episode.item_id)[:-1]
            if len(run.chat.context(messages)) < room:
                of_file.append(messages)
        found.append(of_file)
    mixed = [m for row in zip(*found, strict=False) for m in row]
    return draw.sample(mixed, k=count)


def answer(run: assemble.Run, params, prompts: list[list[int]]) -> list[list[int]]:
    """What the policy writes greedily, from the engine that plays episodes."""
    longest = max(map(len, prompts))
    budget = run.config.evaluation.rollout.max_action_tokens
    shards = run.rollout_mesh.devices.size
    settings = config.RolloutConfig(
        max_tokens=longest + budget,
        max_action_tokens=budget,
        temperature=0.0,
        num_slots=-(-len(prompts) // shards) * shards,
        append_buckets=(longest,),
        cache_buckets=(longest + budget,),
    )
    acting = engine.Engine(
        run.model,
        run.rollout_mesh,
        settings,
        stop_tokens=run.chat.tokenizer.stop_ids,
        num_valid_tokens=run.chat.tokenizer.vocab_size,
    )
    cohort = acting.new_cohort()
    rows = {
        row: engine.SlotInput(prompt, (row, 0), budget)
        for row, prompt in enumerate(prompts)
    }
    pending = acting.dispatch(
        run.rollout_params(params), cohort, rows, jax.random.key(0)
    )
    actions = acting.fetch(cohort, pending)
    return [actions[row].tokens.tolist() for row in range(len(prompts))]


def ask(interpreter: str, asked: dict[str, object]) -> tuple[str, dict]:
    """What a release of transformers makes of the folder; its version first."""
    done = subprocess.run(
        [interpreter, "-P", str(SCRIPT)],
        input=json.dumps({"folders": {"run": asked}}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    read = json.loads(done.stdout)
    return read["version"], read["folders"]["run"]


def main() -> None:
    """Compares, and prints a line for each release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--interpreters", default=sys.executable)
    parser.add_argument("--prompts", type=int, default=exported.NUM_PROMPTS)
    parser.add_argument("--texts", type=int, default=exported.NUM_TEXTS)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        session.open_policy(options.workdir, {}) as (run, params, _, step),
    ):
        out = pathlib.Path(folder) / "exported"
        convert.to_hugging_face(options.workdir, out)
        conversations = choose_prompts(run, options.workdir, options.prompts)
        prompts = [run.chat.context(messages) for messages in conversations]
        answers = answer(run, params, prompts)
        tokenizer = run.chat.tokenizer
        texts = exported.texts(options.texts)
        ids = [tokenizer.encode(text) for text in texts]
        expected = {
            "answers": answers,
            "ids": ids,
            "texts": [tokenizer.decode(found) for found in ids],
            "rendered": prompts,
        }
        asked = {
            "folder": str(out),
            "texts": texts,
            "messages": [
                [{"role": m.role, "content": m.text} for m in messages]
                for messages in conversations
            ],
            "prompts": prompts,
            "max_new_tokens": run.config.evaluation.rollout.max_action_tokens,
        }
        stops = set(tokenizer.stop_ids)
        ended = sum(found[-1] in stops for found in answers)
        lengths = [len(found) for found in answers]
        print(
            f"{options.workdir}, checkpoint {step}: {len(prompts)} prompts of "
            f"{min(map(len, prompts))} to {max(map(len, prompts))} tokens, answers of "
            f"{min(lengths)} to {max(lengths)}, {ended} of them end with a stop token"
        )
        equal = True
        for interpreter in options.interpreters.split(os.pathsep):
            version, found = ask(interpreter, asked)
            counts = {
                name: sum(
                    a == b for a, b in zip(found[name], expected[name], strict=True)
                )
                for name in expected
            }
            equal &= all(count == len(expected[name]) for name, count in counts.items())
            shown = (
                f"{name} {n} of {len(expected[name])}" for name, n in counts.items()
            )
            print(f"transformers {version}: equal: {', '.join(shown)}", flush=True)
    sys.exit(not equal)


if __name__ == "__main__":
    main()
