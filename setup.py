"""Packaging of bmf_trt_seg; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

version = next(
    line.split('"')[1]
    for line in Path(__file__).with_name("bmf_trt_seg").joinpath("__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

docs = [  # wants Python 3.11
    "mkdocs==1.6.1; python_version >= '3.11'",
    "mkdocs-material==9.8.1; python_version >= '3.11'",
    "mkdocstrings==1.0.8; python_version >= '3.11'",
    "mkdocstrings-python==2.0.11; python_version >= '3.11'",
]

export = [
    "onnxscript>=0.2",
    "safetensors>=0.4",
    "torch>=2.4",
    "torchvision>=0.19",
    "transformers>=4.40",
]

setup(
    name="bmf-trt-seg",
    version=version,
    description="Segmentation on video, as a node of a BMF graph",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["bmf_trt_seg", "bmf_trt_seg.*"]),
    package_data={"bmf_trt_seg": ["py.typed", "kernels/*.cu", "watch/page.*"]},
    python_requires=">=3.10,<3.13",  # BMF's wheels end at 3.12
    install_requires=[
        "BabitMF==0.2.0",
        "av>=17,<19",  # 19 has rational numbers of its own
        "click>=8.1",
        "filelock>=3.12",
        "numpy>=1.26",
        "onnx>=1.16",
        "onnxruntime>=1.18",
        "opencv-python-headless>=4.9",
        "pillow>=10.1",
        "pycocotools>=2.0.8",
        "pydantic>=2.7",
        "tflite>=2.10",
        "tqdm>=4.66",
        "typing-extensions>=4.10",
    ],
    extras_require={
        "docs": docs,
        "eval": ["torchmetrics>=1.4"],
        "export": export,
        "live": ["prometheus-client>=0.20"],
        "nvdec": ["PyNvVideoCodec>=2.0", "torch>=2.4"],
        "plots": ["matplotlib>=3.8"],
        "pytorch": ["torch>=2.4"],
        "tensorrt": ["cuda-bindings>=12.6", "tensorrt>=8.6", "torch>=2.4"],
        "test": [
            *docs,
            "ai-edge-litert>=1.2",
            "matplotlib>=3.8",
            "mypy>=1.10",
            "prometheus-client>=0.20",
            "psutil>=5.9",
            "pytest>=8.2",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "tensorrt-rtx-cu13>=1.2",  # builds engines on machines without a GPU
            "torchmetrics>=1.4",
        ],
    },
    entry_points={"console_scripts": ["bmf-trt-seg = bmf_trt_seg.cli.main:main"]},
)
