package record

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// poolVersion is what this driver writes. It refuses a newer version, because it cannot know what
// that means.
const poolVersion = 1

// Pool is pool.json. It is written once, last of all when a pool is made, so its presence says that
// the pool is whole.
type Pool struct {
	FormatVersion int       `json:"formatVersion"`
	UUID          string    `json:"uuid"`
	Created       time.Time `json:"created"`
}

// NewPool is the record of a pool that is being made.
func NewPool() Pool {
	return Pool{FormatVersion: poolVersion, UUID: newUUID(), Created: time.Now().UTC()}
}

// newUUID is a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: see crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Encode is the record of a pool.
func (p Pool) Encode() ([]byte, error) { return encode(p) }

// DecodePool reads the record of a pool. Errors: ErrCorrupt, ErrUnavailable for a newer format.
func DecodePool(content []byte) (Pool, error) {
	var p Pool
	if err := json.Unmarshal(content, &p); err != nil {
		return Pool{}, fmt.Errorf("%w: %s: %w", volume.ErrCorrupt, PoolFile, err)
	}
	if p.FormatVersion > poolVersion {
		return Pool{}, volume.Because(volume.ReasonNewer, fmt.Errorf(
			"%w: %s has format version %d, this driver knows up to %d: run the newer driver",
			volume.ErrUnavailable, PoolFile, p.FormatVersion, poolVersion))
	}
	return p, nil
}

// ID is the part of the UUID that stands in volume IDs. Errors: ErrCorrupt.
func (p Pool) ID() (volume.PoolID, error) {
	digits := strings.ReplaceAll(p.UUID, "-", "")
	id, err := volume.ParsePoolID(digits[:min(len(digits), 12)])
	if err != nil {
		return "", fmt.Errorf("%w: %s has uuid %q", volume.ErrCorrupt, PoolFile, p.UUID)
	}
	return id, nil
}
