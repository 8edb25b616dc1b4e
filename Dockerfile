# The command line in an image: docker build -t hf-exposure . && docker run --rm hf-exposure demo
# Your files: docker run --rm -v "$PWD:/data" hf-exposure measure --model model --canaries canaries.json --out run
# Not built yet: it was written without a container runtime.
FROM python:3.12-slim

# Builds of torch without CUDA; for a GPU: --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir -c constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch \
    && pip install --no-cache-dir -c constraints.txt ".[plots,pdf,scan]"

# Canary files are written for their owner alone: with a folder of another user, add --user "$(id -u)" -e HOME=/tmp.
RUN useradd --create-home --uid 1000 user && install -d -o user /data
ENV HOME=/home/user
USER 1000
WORKDIR /data
ENTRYPOINT ["hf-exposure"]
CMD ["--help"]
