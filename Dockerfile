# The app and the command line in a container, with the embedded model:
#   docker build -t sama .
# This serves CPUs and NVIDIA GPUs (run it with --gpus all). An image for CPUs alone is a tenth of the size:
#   docker build -t sama --build-arg TORCH_INDEX=ADDRESS .
# where ADDRESS is the index that PyTorch's installation page names for CPUs.
FROM python:3.12-slim

ARG TORCH_INDEX=

RUN useradd --create-home --uid 1000 sama && install -d -o sama -g sama /weights /data

WORKDIR /app
COPY requirements.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(sed -n 's/^\(torch[<>=][^ ]*\).*/\1/p' requirements.txt)"; \
    fi \
 && pip install --no-cache-dir -r requirements.txt

COPY app.py LICENSE NOTICE ./
COPY assets assets
COPY sama sama
COPY ui ui

# Weights from the Hub stay in /weights; clips and results of the command line are in /data.
ENV HF_HOME=/weights PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
VOLUME ["/weights", "/data"]
USER sama
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
CMD ["python", "app.py", "--host", "0.0.0.0", "--port", "7860"]
