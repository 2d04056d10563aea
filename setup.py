"""Packaging: five root folders become the one namespace `ingot`."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "compiler" / "version.py").read_text(), re.M)
assert VERSION is not None

ROOTS = {
    "ingot": "compiler",
    "ingot.passes": "passes",
    "ingot.backends": "backends",
    "ingot.plugins": "plugins",
    "ingot.models": "models",
}

CPU = ["onnxruntime>=1.31,<1.32"]
CUDA = ["onnxruntime-gpu[cuda,cudnn]>=1.31,<1.32"]
TEXT = ["tokenizers>=0.22,<1"]
TENSORRT = ["tensorrt>=11.4,<12"]
TENSORRT_RTX = ["tensorrt-rtx>=1.7,<1.8"]
COMPILE = [
    "torch>=2.13,<2.14",
    "onnx>=1.23,<1.24",
    "onnx-ir>=1.1,<1.2",
    "onnxscript>=0.7.2,<0.8",
    "onnx-graphsurgeon>=0.6,<0.7",
    "polygraphy>=0.53,<0.54",
]
# What compiles the GPU kernels of our own operators; torch's CUDA build brings it too.
TRITON = ["triton>=3.9,<3.10"]
HF = ["transformers>=5.23,<6", "safetensors>=0.6"]
TEST = [
    "accelerate>=1",
    "diffusers>=0.42,<0.43",
    "hypothesis>=6.150",
    "mypy>=2.4,<2.5",
    "pytest>=9,<10",
    "pytest-xdist>=3.8",
    "ruff>=0.17,<0.18",
    "sentence-transformers>=6.2,<7",
    "setuptools>=77",
]

setup(
    name="ingot-compiler",
    version=VERSION.group(1),
    description="Turns a PyTorch model into one verified engine file that production loads without PyTorch.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir=ROOTS,
    packages=[
        "ingot",
        "ingot.backends",
        "ingot.backends.cpu",
        "ingot.backends.cuda",
        "ingot.backends.onnxruntime",
        "ingot.backends.tensorrt",
        "ingot.backends.tensorrt.child",
        "ingot.backends.tensorrt.lowering",
        "ingot.backends.tensorrt.network",
        "ingot.backends.tensorrt.operators",
        "ingot.backends.tensorrt.plugin",
        "ingot.backends.tensorrt_rtx",
        "ingot.cli",
        "ingot.device",
        "ingot.file",
        "ingot.frontend",
        "ingot.ir",
        "ingot.models",
        "ingot.passes",
        "ingot.plugins",
        "ingot.plugins.skip_norm",
        "ingot.runtime",
        "ingot.verify",
    ],
    package_data={"ingot": ["py.typed"], "ingot.backends.cuda": ["kernels.txt"]},
    install_requires=["click>=8.2,<9", "numpy>=2.0,<3"],
    extras_require={
        "cpu": CPU,
        "cuda": CUDA,
        "text": TEXT,
        "tensorrt": TENSORRT,
        "tensorrt-rtx": TENSORRT_RTX,
        "compile": COMPILE,
        "triton": TRITON,
        "hf": HF,
        "test": [*CPU, *TEXT, *TENSORRT_RTX, *COMPILE, *TRITON, *HF, *TEST],
    },
    entry_points={"console_scripts": ["ingot = ingot.cli.main:main"]},
    options={"editable_wheel": {"mode": "strict"}},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
