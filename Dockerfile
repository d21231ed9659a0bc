# syntax=docker/dockerfile:1
# The image of workers, for Dataflow, Flink and Beam's Docker environments.
#   docker build --tag IMAGE .                                        CUDA for GPUs
#   docker build --tag IMAGE --build-arg EXTRA= .                     CPU only
#   docker build --tag IMAGE --build-arg MODEL=efficientnet-b7 .      with a model inside
# Check it against the machine that submits: labelbeam doctor compares the versions that are its labels.
ARG PYTHON_VERSION=3.11
# A digest may follow: 3.11.11-slim-bookworm@sha256:…
ARG PYTHON_TAG=3.11.11-slim-bookworm
ARG BEAM_VERSION=2.77.0

FROM apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION} AS beam

FROM python:${PYTHON_TAG} AS wheel
WORKDIR /source
COPY setup.py pyproject.toml README.md LICENSE ./
COPY labelbeam labelbeam
COPY pipeline pipeline
COPY transforms transforms
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON_TAG}
ARG PYTHON_VERSION
ARG BEAM_VERSION
ARG TENSORFLOW_VERSION=2.21.0
# Labels of the image, which labelbeam doctor reads in a registry.
LABEL labelbeam.python="${PYTHON_VERSION}" labelbeam.beam="${BEAM_VERSION}"
# The extras that are installed: gpu has CUDA's libraries, as TensorFlow packages them.
ARG EXTRA=gpu
# A model to have inside, as --model takes it; by default each worker brings its own.
ARG MODEL=

COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY --from=wheel /wheels /wheels
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN pip install --no-cache-dir "$(echo /wheels/labelbeam-*.whl)[sample${EXTRA:+,$EXTRA}]" \
    "apache-beam[gcp]==${BEAM_VERSION}" "tensorflow==${TENSORFLOW_VERSION}"

# Paths of NVIDIA's driver, which Dataflow mounts, and the folder of models.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    LABELBEAM_CACHE_DIR=/opt/labelbeam/models \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
RUN mkdir -p "$LABELBEAM_CACHE_DIR" && if [ -n "$MODEL" ]; then labelbeam model inspect "$MODEL"; fi

ENTRYPOINT ["/opt/apache/beam/boot"]
