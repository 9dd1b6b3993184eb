"""Shape and data types of a transformer."""

import dataclasses
from typing import Literal

Dtype = Literal["float32", "bfloat16"]
Implementation = Literal["matmul", "xla", "cudnn", "pallas"]
KERNELS = ("query", "key", "value", "out", "gate", "up", "down")  # of a block


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Scaling of rotary wavelengths, for contexts longer than in pre-training."""

    kind: Literal["linear", "llama3"]
    factor: float  # of the longest wavelengths
    # llama3: rotations within the original context up to which wavelengths are scaled in
    # full, and from which they are kept
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192  # llama3: tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """Data types of a run; `experiment.precision` has each platform's, with reasons."""

    params: Dtype = "float32"  # what the optimizer updates
    compute: Dtype = "float32"  # activations, and parameters that are only read
    cache: Dtype = "float32"  # keys and values of live episodes
    head: Dtype = "float32"  # output matrix, where it is only read, and its product
    moments: Dtype = "float32"  # both of Adam's
    # Kernels of blocks as rollouts read them: as the learner reads them, or in int8 with a
    # scale per output channel.
    rollout_kernels: Literal["compute", "int8"] = "compute"


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
    critic: bool = False  # a linear value head, which PPO needs
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-6
    max_positions: int = 32_768  # tokens; context length of pre-training
    init: Literal["random", "induction"] = "random"  # see `initial.named`
    precision: Precision | None = None  # None: float32; commands take the platform's
    # How attention is computed; "auto": what suits the platform, see `choices`.
    attention: Literal["auto", "matmul", "xla", "cudnn", "pallas"] = "auto"
    # Whether one block is compiled and scanned over stacked parameters; "auto": on TPUs.
    scan_blocks: Literal["auto", "always", "never"] = "auto"

    @property
    def dtypes(self) -> Precision:
        """The precision, or all float32."""
        return self.precision or Precision()

    def read_dtype(self, path: str) -> Dtype:
        """Returns the type of a parameter where it is only read: frozen, or in rollouts."""
        output = "embedding" if self.tied_embeddings else "head"
        return self.dtypes.head if path == output else self.dtypes.compute

    @property
    def has_room_for_induction(self) -> bool:
        """Whether the shape can hold the heads of `init = "induction"`."""
        return (
            min(self.num_layers, self.num_kv_heads) >= 2
            and self.num_heads >= 2 * self.num_kv_heads
            and self.qkv_bias
            and not (self.qk_norm or self.tied_embeddings)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """LoRA adapters of frozen kernels. No dropout, so that sampler and learner agree."""

    rank: int = 16
    alpha: float = 32.0  # the product of the two factors is scaled by alpha / rank
    targets: tuple[str, ...] = KERNELS
    int8_base: bool = False  # frozen kernels in int8, a scale per output channel
    merge_for_rollouts: bool = True  # once per update; False needs less memory
