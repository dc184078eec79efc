// Package plain is the backend for a filesystem that cannot enforce sizes.
package plain

import (
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Plain makes directories and files, without limits.
type Plain struct{}

var _ backend.Backend = Plain{}

// Name implements backend.Backend.
func (Plain) Name() string { return "plain" }

// Enforces implements backend.Backend.
func (Plain) Enforces() bool { return false }

// LimitsInodes implements backend.Backend.
func (Plain) LimitsInodes() bool { return false }

// Make implements backend.Backend.
func (Plain) Make(dir openat.Dir, spec volume.Spec, _ int64) (*os.File, volume.QuotaID, error) {
	f, err := backend.MakeEmpty(dir, spec)
	return f, 0, err
}

// Adopt implements backend.Backend.
func (Plain) Adopt(openat.Dir, volume.QuotaID, volume.Spec, int64) (bool, error) {
	return false, nil
}

// ReserveQuotaID implements backend.Backend.
func (Plain) ReserveQuotaID(openat.Dir, volume.QuotaID) volume.QuotaID { return 0 }

// Resize implements backend.Backend. There is no limit to change: the size is only in the record.
func (Plain) Resize(openat.Dir, volume.QuotaID, volume.Spec, int64) error { return nil }

// Usage implements backend.Backend. It returns the numbers of the filesystem, which bound a writer.
func (Plain) Usage(data *os.File, _ volume.QuotaID) (volume.Usage, error) {
	return mount.UsageOf(data)
}

// Discard implements backend.Backend.
func (Plain) Discard(openat.Dir) error { return nil }

// Release implements backend.Backend.
func (Plain) Release(volume.QuotaID) error { return nil }
