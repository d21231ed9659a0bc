# Builds the image that starts jobs from the Flex template: the worker image with Dataflow's launcher.
#   docker build --tag LAUNCHER --file deploy/launcher.Dockerfile --build-arg WORKER_IMAGE=IMAGE .
ARG WORKER_IMAGE
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:20230622_RC00 AS launcher

# hadolint ignore=DL3006
FROM ${WORKER_IMAGE}
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY deploy/launch.py /template/launch.py
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/launch.py
ENTRYPOINT ["/opt/google/dataflow/python_template_launcher"]
