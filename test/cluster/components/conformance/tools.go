//go:build tools

package main

// Ginkgo's version is that of Kubernetes, and this module's go.mod and go.sum.
import _ "github.com/onsi/ginkgo/v2/ginkgo"
