# Two stages: the first installs with the same script as `make`; the second contains only the installed application.
FROM python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7 AS build
WORKDIR /app
COPY bin bin
COPY requirements requirements
COPY platform platform
RUN bin/install /app/.venv runtime

FROM python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
COPY --from=build /app/.venv .venv
COPY pyproject.toml ./
COPY env_files env_files
COPY migrations migrations
COPY modules modules
RUN python -m compileall -q modules migrations && useradd --system --uid 10001 app && install -d -o app data
USER 10001
EXPOSE 8000
ENV ENVIRONMENT=prod SERVER_HOST=0.0.0.0
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('SERVER_PORT', 8000)}/health/live\", timeout=2)"]
# The exec form, so that signals reach the server itself. `docker run IMAGE migrate` applies the migrations.
ENTRYPOINT ["kernel"]
CMD ["serve"]
