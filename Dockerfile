# The service in a container: no build tools, no shell needed, nothing to write to. Both builders understand this file.
FROM python:3.13-slim AS build
# pip's own variables, for a mirror instead of PyPI: `docker build --build-arg PIP_INDEX_URL=…`, or in the environment of compose.
ARG PIP_INDEX_URL
ARG PIP_TRUSTED_HOST
WORKDIR /build
COPY requirements.lock .
# The environment at the path where the final image has it; byte code now, because the root may be read-only later.
RUN python -m venv /app/venv \
 && /app/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock \
 && /app/venv/bin/pip uninstall --yes --quiet pip
COPY producer /app/producer
# COPY keeps the modes of the checkout, and some people's umask lets nobody else read.
RUN chmod -R a+rX /app && python -m compileall -q /app

FROM python:3.13-slim
LABEL org.opencontainers.image.title="zendesk-producer" \
      org.opencontainers.image.description="Every version of every Zendesk ticket in Kafka, exactly once" \
      org.opencontainers.image.licenses="Apache-2.0"
# Nothing is installed from here on: pip and its spare copies go, wherever the base image has them.
RUN find / -xdev \( -name pip -o -name 'pip[-3]*' -o -name ensurepip \) -prune -exec rm -rf {} +
COPY --from=build /app /app
# Never PYTHONOPTIMIZE: aiokafka's state machine relies on assert, and the service refuses to start without.
ENV PATH=/app/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["python", "-m", "producer", "health"]
ENTRYPOINT ["python", "-m", "producer"]
CMD ["run"]
