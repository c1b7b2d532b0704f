# deepreg_wf on the CPU:
#   docker build -t deepreg_wf .
#   docker run --rm -v /path/to/bids:/data:ro -v /path/to/out:/out -v /path/to/work:/work \
#     --user "$(id -u):$(id -g)" deepreg_wf /data /out participant --participant-label 01
# A smaller image: --build-arg TORCH_INDEX=<address of PyTorch's index of CPU wheels>

FROM python:3.11-slim AS build
ARG TORCH_INDEX
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/deepreg_wf
ENV PATH=/opt/deepreg_wf/bin:$PATH
WORKDIR /src
COPY constraints.txt .
RUN pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY deepreg_wf deepreg_wf
RUN pip install -c constraints.txt . && python -m compileall -q /opt/deepreg_wf

FROM python:3.11-slim
COPY --from=build /opt/deepreg_wf /opt/deepreg_wf
RUN useradd --create-home deepreg && mkdir /work && chmod 1777 /work
# A home that any --user can write to: TemplateFlow and matplotlib keep files there.
ARG VERSION=0.1.0
ENV PATH=/opt/deepreg_wf/bin:$PATH \
    DEEPREG_WF_DOCKER_TAG=$VERSION \
    HOME=/home/deepreg \
    NIPYPE_NO_ET=1 \
    MPLBACKEND=agg
RUN chmod 1777 /home/deepreg
USER deepreg
WORKDIR /work
ENTRYPOINT ["deepreg_wf"]
