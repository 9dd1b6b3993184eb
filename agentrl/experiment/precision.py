"""The precision policy: in which types a run holds and multiplies its numbers.

`PLATFORMS` is the one table of defaults. It fills what an experiment leaves out in
`ModelConfig.precision`; single fields are changed with `--set=model.precision.cache=...`.
`run.json` stores the result, so whoever continues or exports a run uses the same types
wherever it does so.

On CPUs all is float32. `compute` may be bfloat16 on a CPU with instructions for it
(`avx512_bf16` or `amx_bf16` in /proc/cpuinfo): products of large kernels then run at up to
twice the rate. Without them XLA converts to float32 and back, which gains nothing. The
cache stays float32: XLA would convert all of it for every column written, which makes
decoding several times slower.

On accelerators:

* params float32. An update at a learning rate of 1e-6 is far smaller than the distance of
  neighbouring bfloat16 numbers, about 2^-8 of a weight: it would be rounded away.
* compute bfloat16. Matrix units multiply it at many times the speed of float32, activations
  and gathered parameters take half the memory, and it has float32's range, so that no
  scaling of the loss is needed, as float16 would.
* cache bfloat16. Decoding is bound by reading it, and keys and values come from bfloat16
  activations: there is nothing to keep in more.
* head float32. The output matrix decides on log-probabilities directly. If rollouts read it
  rounded and the learner does not, ratios differ from 1 before anything has been learned;
  MiniMax-M1 (https://arxiv.org/abs/2506.13585) traced runs that did not learn to it. It
  costs two more bytes for each of its numbers in rollouts.
* moments float32. bfloat16 ones halve what is mostly the largest part of a plan. The second
  moment changes by 1 - b2 = 5 % an update, which bfloat16 can represent, so take them if
  memory is short and b2 is no larger than its default.

`rollout_kernels` is "compute" everywhere. "int8" rounds the kernels of blocks once per
update, for rollouts and evaluations, which halves what decoding reads of them on
accelerators. The policy that plays is then not quite the learner's. What it records are its
own log-probabilities, so ratios count the difference; `policy/first_logprob_mismatch`
measures it, and the limit of `algorithm.max_logprob_mismatch` holds, which is wider by
default where something is rounded. docs/numerics.md has figures.

Some types are nobody's choice: logits, softmax, norms, rotary angles, losses and summed
gradients are float32 everywhere, and `lora.int8_base` holds kernels in 8 bits.
"""

import dataclasses
from collections.abc import Mapping

from agentrl import config, errors
from agentrl.experiment import fields
from agentrl.models.model_config import Precision

_ACCELERATOR = Precision(
    params="float32",
    compute="bfloat16",
    cache="bfloat16",
    head="float32",
    moments="float32",
)
PLATFORMS: Mapping[str, Precision] = {  # as `jax.default_backend` names them
    "cpu": Precision(),
    "gpu": _ACCELERATOR,
    "tpu": _ACCELERATOR,
}


def fill_in(settings: config.RunConfig, platform: str) -> config.RunConfig:
    """Gives a run the precision of a platform, unless it has one of its own.

    Raises:
      ConfigError: naming the field, if its own holds a type that is not supported.
    """
    chosen = settings.model.precision or PLATFORMS.get(platform)
    if chosen is None:
        raise errors.ConfigError(
            f"there is no default precision for platform {platform!r}, only for "
            f"{sorted(PLATFORMS)}; give the experiment's ModelConfig a `precision`."
        )
    given = dataclasses.asdict(chosen)
    checked = fields.convert(given, Precision, "model.precision")
    model = dataclasses.replace(settings.model, precision=checked)
    return dataclasses.replace(settings, model=model)
