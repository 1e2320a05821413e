FROM python:3.12.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 10001 playhead \
    && install --directory --owner=playhead --group=playhead /data

WORKDIR /app

# The locked packages come first: their layer stays cached while only the code changes.
COPY requirements.txt ./
RUN pip install --require-hashes -r requirements.txt

COPY pyproject.toml LICENSE ./
COPY aggregator aggregator
COPY api api
COPY kernels kernels
COPY persistence persistence
COPY benchmarks benchmarks
RUN pip install --no-deps --no-build-isolation .

# Started from elsewhere than the sources, the service runs what was installed.
WORKDIR /data
USER playhead
# Into the user's cache, so that no container compiles when it starts.
RUN python -m aggregator.warm_up && python -m api.warm_up
VOLUME /data

ENV PLAYHEAD_HOST=0.0.0.0 \
    PLAYHEAD_DATA_DIR=/data
EXPOSE 8000

HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]

ENTRYPOINT ["playhead"]
CMD ["serve"]
