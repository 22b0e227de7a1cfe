# The image of gpuid-operator: Python packages, copied onto a base image with Python. The build runs
# nothing on the base, so the image of another architecture needs no emulation.
#
# `make release` creates the same without an image builder, on its own base: it fills /app with the
# same program, and reads from the last stage below how the image runs.
#
#   BASE     base image: Python 3.11 or newer as `python3`, and certificates; needs no shell and no
#            package manager
#   BUILDER  image with Python of the same minor version, and pip; its packages do not become part of
#            the image
#
# Two secrets stay out of the image: a pip configuration, such as for a private index, and the CAs to
# trust behind a proxy that intercepts TLS:
#   --secret id=pip,src=$HOME/.config/pip/pip.conf --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt

ARG BUILDER=docker.io/library/python:3.11-slim-bookworm
ARG BASE=gcr.io/distroless/python3-debian12:nonroot

FROM --platform=$BUILDPLATFORM ${BUILDER} AS packages
ARG TARGETARCH
COPY requirements/runtime.txt LICENSE release/app.py /build/
COPY gpuid_operator /build/gpuid_operator
# Unpacks the wheels of the target's architecture, each checked by its hash, and runs none of their
# code.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python3 /build/app.py fetch "${TARGETARCH:-amd64}" /build/runtime.txt /build/wheels \
    && python3 /build/app.py assemble /build/wheels /build /app \
    && find /app -exec touch -h -d @0 {} +

FROM ${BASE}
COPY --from=packages --chown=0:0 /app /app
ENV PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PATH=/usr/local/bin:/usr/bin:/bin
USER 65532:65532
WORKDIR /
EXPOSE 8080
ENTRYPOINT ["python3", "-m", "gpuid_operator"]
CMD ["run"]
