package volume

import (
	"encoding/json"
	"fmt"
)

// Source is what a new volume's content is copied from: a snapshot, a volume, or nothing, which is
// the zero Source. Sources compare with ==.
type Source struct {
	snapshot SnapshotID
	volume   ID
}

// FromSnapshot is a snapshot to restore.
func FromSnapshot(id SnapshotID) Source { return Source{snapshot: id} }

// FromVolume is a volume to clone.
func FromVolume(id ID) Source { return Source{volume: id} }

// IsNone says that the volume begins empty.
func (s Source) IsNone() bool { return s == Source{} }

// Snapshot is the snapshot to restore, if it is one.
func (s Source) Snapshot() (SnapshotID, bool) { return s.snapshot, s.snapshot != SnapshotID{} }

// Volume is the volume to clone, if it is one.
func (s Source) Volume() (ID, bool) { return s.volume, s.volume != ID{} }

// Pool is the pool that holds what is copied.
func (s Source) Pool() PoolID {
	if s.volume != (ID{}) {
		return s.volume.pool
	}
	return s.snapshot.pool
}

// String says what it is in words.
func (s Source) String() string {
	switch {
	case s.snapshot != SnapshotID{}:
		return "snapshot " + s.snapshot.String()
	case s.volume != ID{}:
		return "volume " + s.volume.String()
	default:
		return "nothing"
	}
}

// sourceRecord is a Source in a record.
type sourceRecord struct {
	Snapshot string `json:"snapshot,omitempty"`
	Volume   string `json:"volume,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (s Source) MarshalJSON() ([]byte, error) {
	var r sourceRecord
	if id, ok := s.Snapshot(); ok {
		r.Snapshot = id.String()
	}
	if id, ok := s.Volume(); ok {
		r.Volume = id.String()
	}
	return json.Marshal(r)
}

// UnmarshalJSON implements json.Unmarshaler. A source that is two things, or no ID, is an error.
func (s *Source) UnmarshalJSON(content []byte) (err error) {
	var r sourceRecord
	if err := json.Unmarshal(content, &r); err != nil {
		return err
	}
	*s = Source{}
	switch {
	case r.Snapshot != "" && r.Volume != "":
		return fmt.Errorf("the source is snapshot %q and volume %q: it is one of them", r.Snapshot,
			r.Volume)
	case r.Snapshot != "":
		s.snapshot, err = ParseSnapshotID(r.Snapshot)
	case r.Volume != "":
		s.volume, err = ParseID(r.Volume)
	}
	return err
}
