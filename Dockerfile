# Built with docker, podman or buildah: `make image`. For another architecture: --platform linux/arm64 (the build stage
# cross-compiles; nothing is emulated but the installation of the packages below).
#
# A tag moves. To build on exactly the bases that you have looked at, give them by digest:
# make image IMAGE_FLAGS='--build-arg GO_IMAGE=golang:1.26@sha256:… --build-arg BASE_IMAGE=debian:bookworm-slim@sha256:…'
ARG GO_IMAGE=golang:1.26
ARG BASE_IMAGE=debian:bookworm-slim

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY pkg pkg
ARG TARGETOS=linux
ARG TARGETARCH
# `make image` takes it from git. There is no default: a driver that does not know its version cannot be told from another one.
ARG VERSION
RUN : "${VERSION:?say which version this is: --build-arg VERSION=0.1.0}"
# An empty TARGETARCH (a builder that does not set it) is the build machine's own.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/csi-hostpath/csi-hostpath/pkg/version.buildVersion=$VERSION" -o /out/ ./cmd/csi-hostpath ./cmd/csi-hostpath-controller

FROM ${BASE_IMAGE}
# The programs that make, check and grow the filesystems of block images; everything else the driver does by system calls. Their versions
# decide what a new filesystem has, and so which kernels mount it: another Debian release must not change them unnoticed.
RUN apt-get update \
    && apt-get install -y --no-install-recommends 'btrfs-progs=6.2-*' 'e2fsprogs=1.47.0-*' 'xfsprogs=6.1.0-*' \
    && rm -rf /var/lib/apt/lists/*
# The controller is not in the driver: its client of the API has no place in a privileged process.
COPY --from=build /out/csi-hostpath /out/csi-hostpath-controller /usr/local/bin/
ARG VERSION
LABEL org.opencontainers.image.title="csi-hostpath" \
      org.opencontainers.image.description="A node's own directories, files and images as Kubernetes volumes" \
      org.opencontainers.image.source="https://github.com/csi-hostpath/csi-hostpath" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
ENTRYPOINT ["/usr/local/bin/csi-hostpath"]
CMD ["serve"]
