# `make help` lists everything. A recipe of more than a few lines is a script in hack/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
IMAGE ?= csi-hostpath:$(VERSION)
# Where `make release` writes, and what else it is told: make release RELEASE_FLAGS=--image-repository=registry.example.com/csi-hostpath
RELEASE ?= .cache/release/$(VERSION)
RELEASE_FLAGS ?=
# Which packages `make test` runs, and with what else: make test PACKAGES=./pkg/pool TEST_FLAGS='-run Crash -v'
# Those that take longest come first, so that the last one does not run alone.
PACKAGES ?= ./test/crash ./test/fleet ./pkg/pool ./pkg/copytree ./sanity ./...
VM_PACKAGES ?= ./test/quotas ./test/vm
TEST_FLAGS ?=
# What else `make e2e` is told: make e2e E2E_FLAGS='-keep -run Reboot -image /tmp/image.tar'
E2E_FLAGS ?=
# What else `make bench` is told: make bench BENCH_FLAGS=--help; BENCH_FLAGS='--vm --run quota' runs where project quotas are.
BENCH_FLAGS ?=
# What else `make fleet` is told: make fleet FLEET_FLAGS='--run crash --rounds 1'
FLEET_FLAGS ?=
# What else `make conformance` is told: make conformance CONFORMANCE_FLAGS=-help
CONFORMANCE_FLAGS ?=
# What else `make test-backup` is told: make test-backup BACKUP_FLAGS='-run Snapshot -keep'
BACKUP_FLAGS ?=
# How long `make fuzz` spends on each fuzz test.
FUZZTIME ?= 30s

VERSION_VARIABLE := github.com/csi-hostpath/csi-hostpath/pkg/version.buildVersion
TOOLS := bin/tools
TEST_LOG := .cache/test.json
TEST_VM_LOG := .cache/test-vm.json

##@ Build

.PHONY: help
help: ## Show this list.
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The version is stamped by hand: -buildvcs fails where git refuses a checkout that another user owns.
.PHONY: build
build: ## Build the driver, its fetcher, the controller and kubectl's plugin, static binaries, into bin/.
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X $(VERSION_VARIABLE)=$(VERSION)' -o bin/ ./cmd/...
	CGO_ENABLED=0 go -C gitfetch build -trimpath -buildvcs=false -ldflags '-s -w -X $(VERSION_VARIABLE)=$(VERSION)' -o ../bin/csi-hostpath-git .

# What `make plugin` builds for: OS_ARCH.
PLUGIN_PLATFORMS ?= linux_amd64 linux_arm64 darwin_amd64 darwin_arm64 windows_amd64

.PHONY: plugin
plugin: ## Build kubectl's plugin for PLUGIN_PLATFORMS into bin/plugin/OS_ARCH/ (make plugin PLUGIN_PLATFORMS=linux_amd64).
	hack/plugin $(VERSION) $(PLUGIN_PLATFORMS)

.PHONY: image
image: ## Build the container image IMAGE into .cache/image.tar, and load it into docker or podman if one works here.
	hack/image $(IMAGE) $(VERSION)

# The newest versions of the packages that deploy/image/base.yaml lists. Commit what changes.
.PHONY: base
base: ## Lock the newest Debian packages for the image (on Debian or Ubuntu; apt verifies the signature).
	hack/release base

.PHONY: release
release: $(TOOLS)/helm ## Make a release in RELEASE: images, chart, plugin, SBOMs, notes, provenance (make release VERSION=0.2.0).
	hack/release build --version $(VERSION) --helm $(CURDIR)/$(TOOLS)/helm --output $(RELEASE) $(RELEASE_FLAGS)

.PHONY: manifests
manifests: $(TOOLS)/helm ## Render deploy/kubernetes from the Helm chart.
	hack/manifests $(TOOLS)/helm

.PHONY: generate
generate: ## Generate the messages of the link and of Admin (needs protoc: apt-get install protobuf-compiler).
	hack/generate

.PHONY: clean
clean: ## Remove what was built here.
	rm -rf bin .cache

##@ See

.PHONY: demo
demo: ## Do what kubelet does with the driver, and show each step (as root; takes seconds, leaves nothing).
	@go run ./test/demo

.PHONY: cluster
cluster: $(TOOLS)/helm ## Start a real Kubernetes of three nodes here, with csi-hostpath and the books app, to try things on (as root).
	@hack/cluster $(CURDIR)/$(TOOLS)/helm

.PHONY: bench
bench: packages ## Measure the driver beside its floor (as root; minutes): make bench BENCH_FLAGS='--fs xfs --run cycle'
	@go run ./test/bench $(BENCH_FLAGS)

.PHONY: fleet
fleet: ## Measure the central deployment with thousands of simulated nodes (as root): make fleet FLEET_FLAGS=--help
	@go run ./test/fleet $(FLEET_FLAGS)

##@ Check

# Tests of gitfetch that make and compress much. The programs that they test are never built with the race detector.
HOSTILE_TESTS := HostilePacks|HostileServers|MemoryDoesNotGrow

.PHONY: test
test: packages $(TOOLS)/gotestsum $(TOOLS)/helm ## Run all tests that need no virtual machine (as root, or most of them skip).
	@mkdir -p $(dir $(TEST_LOG))
	$(TOOLS)/gotestsum --format standard-quiet --jsonfile $(TEST_LOG) -- -race -vet=off -count=1 -timeout 30m $(TEST_FLAGS) $(PACKAGES)
	@go run ./test/skips $(TEST_LOG)
	go -C tools/release test -vet=off -count=1 ./...
	go -C gitfetch test -race -vet=off -count=1 -skip '$(HOSTILE_TESTS)' ./...
	go -C gitfetch test -vet=off -count=1 -run '$(HOSTILE_TESTS)' .

# qemu is the tag of the tests that boot a virtual machine. What runs inside has the tag vm.
.PHONY: test-vm
test-vm: packages $(TOOLS)/gotestsum ## Run the tests on another kernel, under QEMU: project quotas, power cuts.
	@mkdir -p $(dir $(TEST_VM_LOG))
	$(TOOLS)/gotestsum --format standard-quiet --jsonfile $(TEST_VM_LOG) -- -tags qemu -vet=off -count=1 -timeout 120m $(TEST_FLAGS) $(VM_PACKAGES)
	@go run ./test/skips $(TEST_VM_LOG)

# The tags: failpoint builds the driver that tests kill at a step, e2e the tests on a cluster, qemu those that boot a machine.
# CI runs no test with backup, dashboards or browser, so it compiles them here.
.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/actionlint ## Run golangci-lint, as .golangci.yml says, and check workflows and commit messages.
	hack/verify-commits
	$(TOOLS)/actionlint
	$(TOOLS)/golangci-lint run
	cd gitfetch && ../$(TOOLS)/golangci-lint run
	$(TOOLS)/golangci-lint run --build-tags failpoint ./pkg/failpoint/...
	$(TOOLS)/golangci-lint run --build-tags e2e ./test/e2e/...
	$(TOOLS)/golangci-lint run --build-tags qemu $(VM_PACKAGES)
	go vet -tags vm,failpoint ./...
	go vet -tags backup,dashboards,browser ./test/backup ./test/dashboards ./pkg/status

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## Format the code the way lint wants it.
	$(TOOLS)/golangci-lint fmt
	cd gitfetch && ../$(TOOLS)/golangci-lint fmt

# The cluster's programs are built once into a cache; a first run takes as long as Kubernetes takes to compile.
.PHONY: e2e
e2e: $(TOOLS)/helm ## Test on a real Kubernetes of three nodes, with the driver's own image (E2E_FLAGS: -run …, -keep).
	@rm -rf .cache/e2e
	go test -tags e2e -count=1 -timeout 45m -parallel 6 -v ./test/e2e -helm $(CURDIR)/$(TOOLS)/helm -logs $(CURDIR)/.cache/e2e $(E2E_FLAGS)

# Not part of CI: it builds the images of earlier versions, and takes a quarter of an hour.
.PHONY: test-upgrade
test-upgrade: $(TOOLS)/helm ## Upgrade from earlier versions and back, and between the plain manifests, on a real Kubernetes.
	go test -tags e2e -count=1 -timeout 60m -v ./test/e2e -upgrades -run 'EarlierVersion|ManifestsOfTheOther' \
		-helm $(CURDIR)/$(TOOLS)/helm -logs $(CURDIR)/.cache/e2e $(E2E_FLAGS)

# Not part of CI: it takes 40 minutes. docs/conformance.md has the results.
.PHONY: conformance
conformance: $(TOOLS)/helm ## Run Kubernetes' own tests of storage drivers on the chart: make conformance CONFORMANCE_FLAGS='-kinds images'
	go run ./test/conformance -helm $(CURDIR)/$(TOOLS)/helm $(CONFORMANCE_FLAGS)

# Also not part of CI: it needs a cluster with the driver. It runs on that of $KUBECONFIG: eval "$(go run ./test/cluster env)"
.PHONY: test-dashboards
test-dashboards: $(TOOLS)/helm $(TOOLS)/prometheus ## Ask a Prometheus that watches the cluster of $KUBECONFIG every query of the chart.
	go test -tags dashboards -count=1 -timeout 20m -v ./test/dashboards $(TEST_FLAGS)

# Not part of CI. docs/backup.md says what is done, and has the results.
.PHONY: test-backup
test-backup: $(TOOLS)/helm ## Back volumes up to an object store and restore them on another node (BACKUP_FLAGS: -name, -run, -keep).
	go test -tags backup -count=1 -timeout 90m -v ./test/backup -helm $(CURDIR)/$(TOOLS)/helm $(BACKUP_FLAGS)

# What `make test` skips as long as no cluster was started here.
.PHONY: test-api
test-api: $(TOOLS)/helm ## Run the tests that need an API server, once make e2e or make cluster has built it.
	go test -count=1 -timeout 20m ./test/cluster/apiserver ./pkg/kube ./cmd/csi-hostpath-controller ./test/fleet

# Not in CI. It needs Debian's packages chromium and chromium-driver.
.PHONY: test-browser
test-browser: ## Look at the status page in Chromium; SCREENSHOTS=/DIRECTORY keeps what it looked like.
	go test -tags browser -count=1 -timeout 20m -v ./pkg/status -run Browser

.PHONY: fuzz
fuzz: ## Run each fuzz test, and each race against an adversary, for FUZZTIME (30s).
	hack/fuzz $(FUZZTIME)

.PHONY: verify
verify: $(TOOLS)/helm ## Check that go.mod, the documents and the manifests agree with the code.
	go mod tidy -diff
	go -C gitfetch mod tidy -diff
	go mod verify
	go -C gitfetch mod verify
	hack/verify-dependencies
	hack/manifests $(TOOLS)/helm --check

.PHONY: vulncheck
vulncheck: $(TOOLS)/govulncheck ## Ask Go's and Debian's databases about known vulnerabilities (VULNCHECK=required: fail when they cannot be reached).
	hack/vulncheck $(CURDIR)/$(TOOLS)/govulncheck

##@ Prepare (done by the others as needed)

.PHONY: packages
packages: ## Install the Debian packages that the tests need, when missing.
	@hack/ensure-packages

.PHONY: tools
tools: $(TOOLS)/golangci-lint $(TOOLS)/gotestsum $(TOOLS)/helm ## Build the pinned linter, test runner and Helm into bin/tools.

# Pinned by tools/go.mod, so that their dependencies stay out of the driver's module.
$(TOOLS)/golangci-lint: tools/go.mod tools/go.sum
	go -C tools build -buildvcs=false -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(TOOLS)/gotestsum: tools/go.mod tools/go.sum
	go -C tools build -buildvcs=false -o ../$@ gotest.tools/gotestsum

$(TOOLS)/actionlint: tools/actionlint/go.mod tools/actionlint/go.sum
	go -C tools/actionlint build -buildvcs=false -o ../../$@ github.com/rhysd/actionlint/cmd/actionlint

$(TOOLS)/govulncheck: tools/govulncheck/go.mod tools/govulncheck/go.sum
	go -C tools/govulncheck build -buildvcs=false -o ../../$@ golang.org/x/vuln/cmd/govulncheck

# A module of its own again: what it requires would decide about the linter's versions.
$(TOOLS)/helm: tools/helm/go.mod tools/helm/go.sum
	go -C tools/helm build -buildvcs=false -o ../../$@ helm.sh/helm/v4/cmd/helm

# Not of the module proxy: compiling it takes longer than everything else here.
$(TOOLS)/prometheus: hack/prometheus
	@mkdir -p $(TOOLS)
	hack/prometheus $(TOOLS)
