# The service in a container: no build tools, no shell needed, nothing to write to. Both builders understand this file.
FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements.lock .
# The environment at the path where the final image has it; byte code now, because the root may be read-only later.
RUN python -m venv /app/venv \
 && /app/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock \
 && /app/venv/bin/pip uninstall --yes --quiet pip
COPY producer /app/producer
RUN python -m compileall -q /app

FROM python:3.13-slim
LABEL org.opencontainers.image.title="zendesk-producer" \
      org.opencontainers.image.description="Every version of every Zendesk ticket in Kafka, exactly once" \
      org.opencontainers.image.licenses="Apache-2.0"
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
