r"""Converts models: from the formats of others into ours, and trained ones back.

  python -m agentrl.launch.convert --from_hf=/models/Qwen2.5-3B-Instruct --out=/models/qwen2.5-3b
  python -m agentrl.launch.convert --from_hf=smollm2-135m-instruct --out=/tmp/smollm2

write a folder with an orbax checkpoint, from which `launch.train --model=FOLDER` starts.
(It also starts from a Hugging Face folder as it is.)

  python -m agentrl.launch.convert --checkpoint=runs/mine --to_hf=/tmp/mine
  python -m agentrl.launch.convert --checkpoint=/tmp/smollm2 --to_hf=/tmp/back --dtype=bfloat16

write a folder that `transformers` loads: configuration, safetensors, tokenizer and
generation settings. The checkpoint is a run's working directory, one of its
checkpoints/STEP, or a converted folder. Without --dtype, numbers are kept as they are.
What differs from the policy is printed and said in the folder's README.md.
Low-rank adapters are merged into the model; with --adapter the folder holds them alone,
as the `peft` library loads them beside the model that the run started from.
"""  # noqa: E501

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging

from agentrl import errors

_FROM_HF = flags.DEFINE_string(
    "from_hf", None, "Hugging Face folder, GGUF file or smollm2-135m-instruct."
)
_OUT = flags.DEFINE_string("out", None, "New folder for the orbax checkpoint.")
_TO_HF = flags.DEFINE_string("to_hf", None, "New folder for transformers.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Run or converted folder that --to_hf exports."
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "With --to_hf: type of the numbers that it writes.",
)
_ADAPTER = flags.DEFINE_bool(
    "adapter", False, "With --to_hf: write a run's adapters alone, for peft."
)
_SHARD_GB = flags.DEFINE_float(
    "shard_gb", 5.0, "With --to_hf: largest safetensors file.", lower_bound=0.001
)


def main(argv: Sequence[str]) -> None:
    """Checks the flags and converts in the direction that they name."""
    if len(argv) > 1:
        raise errors.UsageError(f"unexpected arguments {argv[1:]}.")
    ways = (_FROM_HF, _OUT), (_TO_HF, _CHECKPOINT)
    given = [flag.name for way in ways for flag in way if flag.value]
    if given not in [[flag.name for flag in way] for way in ways]:
        raise errors.UsageError(
            "give --from_hf with --out, or --to_hf with --checkpoint; given: "
            f"{', '.join(given) or 'none of them'}."
        )
    for flag in (_DTYPE, _ADAPTER, _SHARD_GB):
        if flag.present and not _TO_HF.value:
            raise errors.UsageError(
                f"--{flag.name} has no effect on --from_hf; it is for --to_hf."
            )
    if _SHARD_GB.present and _ADAPTER.value:
        raise errors.UsageError(
            "--shard_gb has no effect with --adapter, which writes one file."
        )
    # JAX is imported late: it reads flags and environment variables on import.
    logging.set_verbosity(logging.WARNING)  # orbax reports every step at INFO
    from agentrl import refusals
    from agentrl.buckets import mirror
    from agentrl.export import convert

    try:
        if _FROM_HF.value and _OUT.value:
            convert.to_orbax(_FROM_HF.value, pathlib.Path(_OUT.value))
            print(f"Converted: {_OUT.value}")
        elif _TO_HF.value and _CHECKPOINT.value and _ADAPTER.value:
            convert.to_peft(
                mirror.readable(_CHECKPOINT.value),
                pathlib.Path(_TO_HF.value),
                dtype=_DTYPE.value,
            )
            print(f"Exported the adapters: {_TO_HF.value}")
        elif _TO_HF.value and _CHECKPOINT.value:
            convert.to_hugging_face(
                mirror.readable(_CHECKPOINT.value),
                pathlib.Path(_TO_HF.value),
                dtype=_DTYPE.value,
                shard_bytes=int(_SHARD_GB.value * 10**9),
            )
            print(f"Exported: {_TO_HF.value}")
    except refusals.EXPECTED as error:
        sys.exit(f"launch.convert: {error}")


if __name__ == "__main__":
    app.run(main)
