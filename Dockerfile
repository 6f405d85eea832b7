# What uses exported models, without PyTorch and CUDA: clipperf.load and ONNX Runtime on the CPU.
#
#   docker build --tag clipperf-slim .
#   docker run --rm --publish 8000:8000 --volume "$PWD/sample-clip:/srv/sample-clip:ro" --volume "$PWD/service.py:/srv/service.py:ro" clipperf-slim service.py
#
# Another runtime: docker build --build-arg RUNTIME=openvino --tag clipperf-slim .

FROM python:3.12-slim AS build
ARG RUNTIME=onnx
COPY pyproject.toml README.md LICENSE /src/
COPY clipperf /src/clipperf
COPY tools/slim_env.sh /src/tools/
RUN sh /src/tools/slim_env.sh /opt/clipperf "$RUNTIME" \
    && /opt/clipperf/bin/python -m pip uninstall --yes --quiet pip

FROM python:3.12-slim
COPY --from=build /opt/clipperf /opt/clipperf
ENV PATH=/opt/clipperf/bin:$PATH HOST=0.0.0.0
RUN useradd --create-home --uid 10001 clipperf
USER clipperf
WORKDIR /srv
EXPOSE 8000
STOPSIGNAL SIGINT
ENTRYPOINT ["python"]
