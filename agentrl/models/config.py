"""Shape of a transformer, and presets by name."""

import dataclasses


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
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
