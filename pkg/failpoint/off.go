//go:build !failpoint

// Package failpoint lets a test kill the driver at a chosen step of its commit protocol. In a
// binary built without the tag "failpoint" every point is an empty function that the compiler
// removes.
package failpoint

// Here marks a step at which a crash must be safe.
func Here(Point) {}
