// Package version has the version of the program that runs.
package version

import (
	"cmp"
	"runtime/debug"
)

// buildVersion is set by a release build: -ldflags "-X
// github.com/csi-hostpath/csi-hostpath/pkg/version.buildVersion=v1.2.3".
var buildVersion string

// Version is the version of the program: the release's, else what the Go tool recorded about the
// checkout, else "unknown".
var Version = cmp.Or(buildVersion, recordedVersion(), "unknown")

func recordedVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	return info.Main.Version
}
