// Package docs has the documents that programs show.
package docs

import _ "embed"

// Troubleshooting is the document that says what each message means, and what to do.
//
//go:embed troubleshooting.md
var Troubleshooting string

// Health is the document that says what can be wrong with a volume, a pool or a node.
//
//go:embed health.md
var Health string
