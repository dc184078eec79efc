//go:build tools

// Package tools pins the programs of this component: their versions are this
// module's go.mod and go.sum, apart from the driver's own dependencies.
package tools

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
