# The studio and the commands on a CPU: see README.md.
FROM python:3.12-slim-bookworm

# A virtual environment of its own, so that pip does not write to the system's Python.
RUN python -m venv /opt/impasto
ENV PATH=/opt/impasto/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /src
COPY constraints.txt ./
# torch first: this layer is kept when only impasto changes. Its usual wheels bring gigabytes of CUDA; pip reads this
# variable, so that a build can name PyTorch's index of CPU wheels.
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY impasto impasto
RUN pip install --no-cache-dir --constraint constraints.txt '.[all]'

# Everything is written below /tmp and /pictures, so the rest of the file system may be read-only.
RUN useradd --create-home --uid 1000 painter && mkdir /pictures && chown painter /pictures
USER 1000
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache
WORKDIR /pictures
VOLUME /pictures
EXPOSE 7860
ENTRYPOINT ["impasto"]
CMD ["studio", "--host", "0.0.0.0", "--auth", "painter"]
