//go:build tools

// Package tools pins the programs of this component: their versions are this
// module's go.mod and go.sum, apart from the driver's own dependencies.
package tools

import (
	_ "github.com/opencontainers/runc"
)
