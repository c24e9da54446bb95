# bmf-trt-seg on an NVIDIA GPU: TensorRT 10, NVDEC (PyNvVideoCodec), NVENC. From the top of a checkout, on a machine with
# NVIDIA's driver (580 or later, for CUDA 13) and its container toolkit:
#
#   docker build -f docker/cuda.Dockerfile -t bmf-trt-seg:cuda .
#   docker run --rm --gpus all -v "$PWD:/data" -u "$(id -u):$(id -g)" bmf-trt-seg:cuda segment in.mp4 -o out.mp4 \
#       --backend tensorrt --build precision=fp16
#
# Not one line of this file has been run by an engine of containers; docs/install.md says which of them were run otherwise.
#
# CUDA's libraries come with PyTorch's and TensorRT's packages, the driver's from the host: NVIDIA's base images would
# bring the former twice. Ubuntu 22.04 has FFmpeg 4, which BMF links, and builds it with NVENC; Debian does not.
FROM ubuntu:22.04 AS base
COPY scripts/install-ffmpeg4 /usr/local/sbin/
# Ubuntu's security updates, not exact versions, are what its packages should follow; the last line fails without NVENC
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libpython3.10 python3 tini \
    && install-ffmpeg4 \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -c "import ctypes; assert ctypes.CDLL('libavcodec.so.58').avcodec_find_encoder_by_name(b'h264_nvenc')"

FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && python3 -m venv /opt/bmf-trt-seg
# a layer of its own for what is large and seldom changes; TensorRT's packages on PyPI fetch it from NVIDIA's own index
# hadolint ignore=DL3059
RUN /opt/bmf-trt-seg/bin/pip install --no-cache-dir --disable-pip-version-check 'torch==2.13.*' 'tensorrt==10.16.*'
COPY . /src
# BMF's GPU build goes in the place of its CPU build, and both own the same files
RUN /opt/bmf-trt-seg/bin/pip install --no-cache-dir --disable-pip-version-check '/src[live,nvdec,tensorrt]' 'tensorrt==10.16.*' \
    && /opt/bmf-trt-seg/bin/pip uninstall -y BabitMF \
    && /opt/bmf-trt-seg/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps BabitMF_GPU==0.2.0 \
    && BMF_TRT_SEG_MODELS=/opt/bmf-trt-seg/models /opt/bmf-trt-seg/bin/bmf-trt-seg models fetch person --quiet

FROM base
COPY --from=build /opt/bmf-trt-seg /opt/bmf-trt-seg
COPY docker/health /usr/local/bin/
# compiled kernels are kept in the home folder, engines in the working one
RUN useradd --create-home --uid 1000 bmf && install -d -o bmf -g bmf /data
# what the container toolkit brings in of the driver: CUDA, NVDEC and NVENC, nvidia-smi
ENV PATH=/opt/bmf-trt-seg/bin:$PATH \
    BMF_TRT_SEG_MODELS=/opt/bmf-trt-seg/models \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /data
EXPOSE 9090
# asks /healthz where --web was given; there is nothing to ask otherwise
HEALTHCHECK --interval=30s --timeout=10s --start-period=600s CMD ["health"]
# the first process of a container does not get signals that it has no handler for: tini passes them on
ENTRYPOINT ["tini", "--", "bmf-trt-seg"]
CMD ["--help"]
