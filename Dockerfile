# syntax=docker/dockerfile:1
# raybc in a container, for a CPU or an NVIDIA GPU:
#
#   docker build --target cpu -t raybc .
#   docker build --target cuda -t raybc:cuda .
#   docker run --rm --shm-size=2g -v "$PWD/runs:/work/runs" raybc sweep
#
# docs/deploy.md has the rest. `make docker-smoke` builds the CPU image and runs a small sweep in it.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# Which simulators: robosuite, or e.g. all, or robosuite,ogbench.
ARG EXTRAS=robosuite,dashboard,serve,onnx,hub
# An index with PyTorch for CPUs only makes the image about 3 GB smaller (https://pytorch.org/get-started names it).
ARG TORCH_INDEX=""
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ linux-libc-dev libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/raybc
ENV PATH=/opt/raybc/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY raybc raybc
COPY envs envs
COPY sweeps sweeps
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c constraints.txt --index-url "$TORCH_INDEX" torch; fi \
    && pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

FROM ${PYTHON} AS cpu
# Offscreen rendering: EGL with Mesa, OSMesa where EGL has no driver.
RUN apt-get update && apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri libosmesa6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 raybc \
    && mkdir -p /work/runs && chown -R raybc:raybc /work
COPY --from=build /opt/raybc /opt/raybc
ENV PATH=/opt/raybc/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAYBC_HOME=/work/runs/.cache
USER raybc
WORKDIR /work
VOLUME /work/runs
ENTRYPOINT ["raybc"]
CMD ["--help"]

# The same packages; NVIDIA's container toolkit mounts the driver, with EGL among its capabilities. Run it with --gpus all.
FROM cpu AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
