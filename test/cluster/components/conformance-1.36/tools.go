//go:build tools

package main

import (
	// A populator of volumes, which one spec runs.
	_ "github.com/kubernetes-csi/lib-volume-populator/example/hello-populator"
	// Ginkgo's version is that of Kubernetes, and this module's go.mod and go.sum.
	_ "github.com/onsi/ginkgo/v2/ginkgo"
)
