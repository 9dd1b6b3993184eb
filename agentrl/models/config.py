"""Shape of a transformer, and the types its numbers have."""

import dataclasses
from typing import Literal

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Stretches rotary wavelengths, for contexts longer than those trained on first."""

    kind: Literal["linear", "llama3"]
    factor: float  # the longest wavelengths grow by it
    # llama3: turns within the original context up to which all is stretched, ...
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0  # ... and from which nothing is
    original_context: int = 8192  # llama3: tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """Types of a run's numbers; `launch.precision` has each platform's, with reasons."""

    params: Dtype = "float32"  # what the optimizer updates
    compute: Dtype = "float32"  # activations, and parameters that are only read
    cache: Dtype = "float32"  # keys and values of live episodes
    head: Dtype = "float32"  # output matrix, where only read and in the last product
    moments: Dtype = "float32"  # both of Adam's


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder of the Qwen2 / Llama kind: RMSNorm, rotary positions, gated MLP, GQA."""

    vocab_size: int = 1024
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    mlp_size: int = 384
    qkv_bias: bool = True  # Qwen2
    qk_norm: bool = False  # Qwen3
    tied_embeddings: bool = True
    critic: bool = False  # a linear read-out of the value, which PPO needs
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-6
    max_positions: int = 32_768  # tokens; longer contexts were never trained
    init: Literal["random", "induction"] = "random"  # see `models.induction`
    precision: Precision | None = None  # None: float32; commands take the platform's
    # How attention is computed; "auto" takes what `models.attention` has for the platform.
    attention: Literal["auto", "matmul", "xla", "cudnn"] = "auto"

    @property
    def dtypes(self) -> Precision:
        """The precision, or all float32."""
        return self.precision or Precision()

    def read_dtype(self, path: str) -> Dtype:
        """Type of a parameter where it is only read: frozen, or in rollouts."""
        output = "embedding" if self.tied_embeddings else "head"
        return self.dtypes.head if path == output else self.dtypes.compute

    @property
    def has_room_for_induction(self) -> bool:
        """Whether `init = "induction"` can be had."""
        return (
            min(self.num_layers, self.num_kv_heads) >= 2
            and self.num_heads >= 2 * self.num_kv_heads
            and self.qkv_bias
            and not (self.qk_norm or self.tied_embeddings)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters beside frozen kernels. There is no dropout: sampler and learner agree."""

    rank: int = 16
    alpha: float = 32.0  # the product of the two factors counts alpha / rank times
    targets: tuple[str, ...] = ("query", "key", "value", "out", "gate", "up", "down")
    int8_base: bool = False  # adapted kernels in 8 bits, a scale per output channel
    merge_for_rollouts: bool = True  # once per update; False needs less memory
