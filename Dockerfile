# The app and the command line in a container, with the embedded model. For CPUs:
#   docker build -t sama .
# for NVIDIA GPUs (run it with --gpus all):
#   docker build -t sama:cuda --build-arg DEVICE=cuda .
FROM python:3.12-slim

# "cpu" installs the build of PyTorch without CUDA, which is a tenth of the size.
ARG DEVICE=cpu

RUN useradd --create-home --uid 1000 sama && install -d -o sama -g sama /weights /data

WORKDIR /app
COPY requirements.txt ./
RUN if [ "$DEVICE" = cpu ]; then \
      pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(sed -n 's/^\(torch[<>=][^ ]*\).*/\1/p' requirements.txt)"; \
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
