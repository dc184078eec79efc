# Built with docker, podman or buildah: `make image`. For another architecture: --platform linux/arm64 (the build stage
# cross-compiles; nothing is emulated but the installation of the packages below).
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY pkg pkg
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=unknown
# An empty TARGETARCH (a builder that does not set it) is the build machine's own.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/csi-hostpath/csi-hostpath/pkg/driver.buildVersion=$VERSION" -o /csi-hostpath ./cmd/csi-hostpath

FROM debian:bookworm-slim
# The programs that make, check and grow the filesystems of block images; everything else the driver does by system calls.
RUN apt-get update \
    && apt-get install -y --no-install-recommends btrfs-progs e2fsprogs xfsprogs \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /csi-hostpath /usr/local/bin/csi-hostpath
ARG VERSION=unknown
LABEL org.opencontainers.image.title="csi-hostpath" \
      org.opencontainers.image.description="A node's own directories, files and images as Kubernetes volumes" \
      org.opencontainers.image.source="https://github.com/csi-hostpath/csi-hostpath" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
ENTRYPOINT ["/usr/local/bin/csi-hostpath"]
CMD ["serve"]
