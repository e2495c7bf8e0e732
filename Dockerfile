# The main job on the CPU, with nothing installed but Docker:
#   docker build -t cpvt . && mkdir -p runs
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/runs:/work/runs" cpvt              # cpvt compare
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" cpvt predict photo.jpg      # any other verb
# For smaller images pass the index of PyTorch's CPU builds, which pytorch.org names: --build-arg TORCH_INDEX=...
FROM python:3.12-slim
ARG TORCH_INDEX=""
# a layer of its own, which stays when the package changes
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir "/src[onnx]"
# caches of whoever runs it, who has no home here
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["cpvt"]
CMD ["compare"]
