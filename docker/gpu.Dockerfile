# specreason-sgl on NVIDIA GPUs, on SGLang's own image.
ARG SGLANG=lmsysorg/sglang:v0.5.23
FROM ${SGLANG}
COPY . /source
RUN pip install --no-cache-dir /source && rm -rf /source
WORKDIR /root
VOLUME /root/.cache
EXPOSE 8000
HEALTHCHECK --start-period=30m \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["specreason-sgl"]
CMD ["serve", "--host", "0.0.0.0", "--pair", "qwen3"]
