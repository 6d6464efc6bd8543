# A generator as a service: docs/serve.md. The versions are those of constraints.txt.
FROM node:22-slim AS page
WORKDIR /web
COPY web ./
RUN npm ci --ignore-scripts && npm run build -- /built

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/fewstep
ENV PATH=/opt/fewstep/bin:$PATH
WORKDIR /build
COPY constraints.txt ./
# PyTorch's build for processors; the one of PyPI brings gigabytes of CUDA. What it needs comes below.
RUN pip install -c constraints.txt --no-deps --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY web web
COPY src src
COPY --from=page /built src/fewstep/page/built
RUN pip install -c constraints.txt '.[page,report]'

FROM python:3.11-slim
COPY --from=build /opt/fewstep /opt/fewstep
ENV PATH=/opt/fewstep/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 fewstep
USER fewstep
WORKDIR /home/fewstep
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Inside a container all addresses are its own; who may reach it, `docker run -p` says.
ENTRYPOINT ["fewstep", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["digits"]
