# The image of the server, its services, MLflow's server and the workers: Python, what constraints.txt names, this project.
# Not for a GPU's driver, which the host lends to a container (NVIDIA's container toolkit).
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 DO_NOT_TRACK=1

WORKDIR /opt/likeness
COPY constraints.txt ./
RUN pip install --no-deps --require-hashes --requirement constraints.txt

COPY pyproject.toml README.md LICENSE prefect.yaml prefect.toml ./
COPY flows flows
COPY preprocessing preprocessing
COPY storage storage
COPY training training
RUN pip install --no-deps --no-build-isolation . && pip check

# An ordinary user: PostgreSQL's is another container's, and a store belongs to whoever owns its folder (`--user`).
RUN useradd --create-home --uid 1000 likeness && mkdir /store /work && chown likeness /store /work
USER 1000
WORKDIR /work
# The deployments and Prefect's settings, which `likeness deploy` and every `prefect` read where they are started.
RUN likeness init

ENV LIKENESS_STORE=/store
STOPSIGNAL SIGTERM
CMD ["likeness", "--help"]
