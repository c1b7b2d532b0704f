# The BIDS-App deepreg_wf; docs/container.md tells how to build and run it.
#   docker build -t deepreg_wf .                              for the CPU
#   docker build -t deepreg_wf --build-arg PYTORCH=cu130 .    for NVIDIA GPUs, too

FROM python:3.11.14-slim-bookworm AS build
# PyTorch comes from its own public index of wheels, where PYTORCH is the folder: cpu, or a release
# of CUDA. With an empty TORCH_INDEX it comes from wherever pip finds everything else.
ARG PYTORCH=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/$PYTORCH
# Extras of the package, such as hdbet, whose weights come along.
ARG EXTRAS=
ENV PATH=/opt/deepreg_wf/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1
WORKDIR /src
RUN python -m venv /opt/deepreg_wf
COPY constraints.txt .
# What PyTorch itself needs comes with the rest: its index has not all of the pinned versions.
RUN pip install --no-deps -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY deepreg_wf deepreg_wf
RUN pip install -c constraints.txt ".${EXTRAS:+[$EXTRAS]}"
# Tests, headers and pip have done their work. Of the tests only nilearn's are imported by others.
# The compiled modules name no time of their source, so that no copy of the folder outdates them.
WORKDIR /opt/deepreg_wf/lib/python3.11/site-packages
RUN pip uninstall --quiet --yes pip \
    && find . -type d -name tests -not -path './nilearn/*' -prune -exec rm -r {} + \
    && find torch/bin -mindepth 1 -not -name torch_shm_manager -delete \
    && rm -rf torch/include torch/test \
    && python -m compileall -q --invalidation-mode unchecked-hash -x torch/testing /opt/deepreg_wf

FROM python:3.11.14-slim-bookworm
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title=deepreg_wf \
      org.opencontainers.image.description="Registration of T1-weighted brains to a template by geodesic shooting: a BIDS-App" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.authors="The deepreg_wf developers" \
      org.opencontainers.image.base.name=docker.io/library/python:3.11.14-slim-bookworm
COPY --from=build /opt/deepreg_wf /opt/deepreg_wf
# The home and the folder for intermediate files are for any --user to write to. A login shell, with
# which some platforms start a command, forgets the PATH below.
RUN useradd --uid 1000 --no-create-home deepreg \
    && mkdir --mode 1777 /home/deepreg /work \
    && ln -s /opt/deepreg_wf/bin/deepreg_wf* /usr/local/bin/ \
    && test "$(deepreg_wf --version)" = "deepreg_wf $VERSION"
ENV PATH=/opt/deepreg_wf/bin:$PATH \
    HOME=/home/deepreg \
    TEMPLATEFLOW_HOME=/templateflow \
    DEEPREG_WF_DOCKER_TAG=$VERSION \
    MPLBACKEND=agg \
    MPLCONFIGDIR=/work/.matplotlib \
    NIPYPE_NO_ET=1
USER 1000:1000
WORKDIR /work
HEALTHCHECK --interval=10m --timeout=1m CMD ["deepreg_wf", "--version"]
ENTRYPOINT ["deepreg_wf"]
