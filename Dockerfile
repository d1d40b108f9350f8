# egs-jax on a CPU or on NVIDIA GPUs: `make docker` builds both images.
#
#   docker run --rm -v "$PWD:/work" egs-jax:cpu preprocess me.mp4 data/me
#   docker run --rm --gpus all -v "$PWD:/work" egs-jax:gpu train fast --data-dir data/me --run-dir runs/me
#
# Networks and compiled programs are kept in the volume /cache, which any user may write to: with
# `--user "$(id -u):$(id -g)"` what is made belongs to you.
FROM python:3.12-slim

# "" for a CPU, "[cuda]" for drivers of NVIDIA from 525 on, "[cuda13]" for those from 580 on: all of
# CUDA but the driver comes with JAX's wheels.
ARG EXTRAS=""

ENV PYTHONUNBUFFERED=1 \
    PYTHONUTF8=1 \
    XDG_CACHE_HOME=/cache \
    HOME=/cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video

WORKDIR /opt/egs-jax
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY egs_jax egs_jax
COPY kernels kernels
RUN pip install --no-cache-dir ".${EXTRAS}" && mkdir -m 1777 /cache
VOLUME /cache

WORKDIR /work
ENTRYPOINT ["egs-jax"]
CMD ["--help"]
