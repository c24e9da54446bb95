# bmf-trt-seg on a CPU, as an ordinary user, with the person network in it. From the top of a checkout:
#
#   docker build -f docker/cpu.Dockerfile -t bmf-trt-seg .
#   docker run --rm -v "$PWD:/data" -u "$(id -u):$(id -g)" bmf-trt-seg segment holiday.mp4 -o out.mp4
#
# docs/install.md has `live` in it, and says which of these lines were run where.
FROM debian:bookworm-slim AS base
COPY scripts/install-ffmpeg4 /usr/local/sbin/
# Debian's security updates, not exact versions, are what its packages should follow
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libpython3.11 python3 tini \
    && install-ffmpeg4 \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && python3 -m venv /opt/bmf-trt-seg
COPY . /src
RUN /opt/bmf-trt-seg/bin/pip install --no-cache-dir --disable-pip-version-check '/src[live]' \
    && BMF_TRT_SEG_MODELS=/opt/bmf-trt-seg/models /opt/bmf-trt-seg/bin/bmf-trt-seg models fetch person --quiet

FROM base
COPY --from=build /opt/bmf-trt-seg /opt/bmf-trt-seg
COPY docker/health /usr/local/bin/
RUN useradd --create-home --uid 1000 bmf && install -d -o bmf -g bmf /data
ENV PATH=/opt/bmf-trt-seg/bin:$PATH \
    BMF_TRT_SEG_MODELS=/opt/bmf-trt-seg/models \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /data
EXPOSE 9090
# asks /healthz where --web was given; there is nothing to ask otherwise
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["health"]
# the first process of a container does not get signals that it has no handler for: tini passes them on
ENTRYPOINT ["tini", "--", "bmf-trt-seg"]
CMD ["--help"]
