# specreason-sgl on a CPU. PyTorch is its CUDA build, which also runs on a CPU: an image of more than 11 GB.
FROM python:3.11-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip install --no-cache-dir /source \
    && rm -rf /source \
    && useradd --create-home --uid 1000 user \
    && install --directory --owner user /home/user/.cache
USER 1000
WORKDIR /home/user
VOLUME /home/user/.cache
EXPOSE 8000
HEALTHCHECK --start-period=30m \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["specreason-sgl"]
CMD ["serve", "--host", "0.0.0.0"]
