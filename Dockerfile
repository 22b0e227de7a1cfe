# The image of gpuid-operator: Python packages copied onto a base that brings Python and nothing of
# ours is run on, so that the image of another architecture needs no emulation to be made.
#
#   BASE     what the image stands on: Python 3.11 or newer as `python3`, certificates; no shell, no
#            package manager needed
#   BUILDER  Python of the same minor version, with pip; its packages stay behind
#
# Secrets, which stay out of the image: a pip configuration, such as for a private index, and the
# authorities to trust behind a proxy that opens TLS:
#   --secret id=pip,src=$HOME/.config/pip/pip.conf --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt

ARG BUILDER=docker.io/library/python:3.11-slim-bookworm
ARG BASE=gcr.io/distroless/python3-debian12:nonroot

FROM --platform=$BUILDPLATFORM ${BUILDER} AS packages
ARG TARGETARCH
COPY requirements/runtime.txt /build/
# Wheels only, of the target's architecture, each checked by its hash. What only developers or
# people at a terminal use is left out.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && case "${TARGETARCH:-amd64}" in amd64) cpu=x86_64 ;; arm64) cpu=aarch64 ;; *) exit 1 ;; esac \
    && python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile \
        --require-hashes --only-binary=:all: --target=/app \
        $(for glibc in $(seq 36 -1 17); do echo "--platform=manylinux_2_${glibc}_$cpu"; done) \
        --platform=manylinux2014_$cpu \
        --requirement=/build/runtime.txt \
    && rm -rf /app/bin \
    && find /app -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} + \
    && find /app -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \
        -o -name '*.c' \) -delete
COPY gpuid_operator /app/gpuid_operator
COPY LICENSE /app/gpuid_operator/
# Byte code that is checked against nothing, so that it does not depend on any file's time; none for
# the large packages that the operator in a cluster does not import.
RUN python3 -m compileall -q -j 1 -s /app -p /app --invalidation-mode unchecked-hash \
        -x '/app/(kubernetes_asyncio|pygments|tzdata)/' /app \
    && find /app -exec touch -h -d @0 {} +

FROM ${BASE}
COPY --from=packages --chown=0:0 /app /app
ENV PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PATH=/usr/local/bin:/usr/bin:/bin
USER 65532:65532
WORKDIR /
EXPOSE 8080
ENTRYPOINT ["python3", "-m", "gpuid_operator"]
CMD ["run"]
