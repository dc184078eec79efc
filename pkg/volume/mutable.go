package volume

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The keys of a VolumeAttributesClass (CSI mutable_parameters).
const (
	ParamReadIOPS            = "readIOPS"
	ParamWriteIOPS           = "writeIOPS"
	ParamReadBytesPerSecond  = "readBytesPerSecond"
	ParamWriteBytesPerSecond = "writeBytesPerSecond"
	ParamTrashRetention      = "trashRetention"
	// ParamInodes is one of them, too.
)

// MutableDefault is the value that undoes a parameter: the volume is as its StorageClass and its
// pool make it.
const MutableDefault = "default"

// What an I/O limit may be. Below the least, unmounting a volume that has much to write would take
// hours, and everything that waits for it, too. The kernel keeps I/Os per second in 32 bits
// (block/blk-throttle.c, tg_set_limit).
const (
	minIOPS           = 10
	maxIOPS           = 1<<32 - 2
	minBytesPerSecond = 64 << 10
)

// MaxTrashRetention is the longest time that deleted data can be retained.
const MaxTrashRetention = 8760 * time.Hour

// Mutable is what a VolumeAttributesClass says of a volume, also while pods use it. The zero
// Mutable is that of a volume without such a class.
type Mutable struct {
	IO IOLimits `json:"io,omitzero"`
	// Inodes replaces the limit of the specification; 0 does not.
	Inodes uint64 `json:"inodes,omitempty"`
	// TrashRetention replaces the pool's; empty does not.
	TrashRetention Retention `json:"trashRetention,omitempty"`
}

// IOLimits are what all pods of a volume together may do in a second. 0 is no limit.
type IOLimits struct {
	ReadIOPS            uint64 `json:"readIops,omitempty"`
	WriteIOPS           uint64 `json:"writeIops,omitempty"`
	ReadBytesPerSecond  uint64 `json:"readBytesPerSecond,omitempty"`
	WriteBytesPerSecond uint64 `json:"writeBytesPerSecond,omitempty"`
}

// IsNone says that nothing is limited.
func (l IOLimits) IsNone() bool { return l == IOLimits{} }

// Retention is how long deleted data stays in the trash, as time.Duration writes it: "72h0m0s".
// Empty is as long as the pool says.
type Retention string

// Or is the time itself, or the pool's.
func (r Retention) Or(pool time.Duration) time.Duration {
	d, err := time.ParseDuration(string(r))
	if err != nil { // empty: Mutable.Check lets nothing else pass
		return pool
	}
	return d
}

// Changes are what a VolumeAttributesClass changes of a volume: what it does not name stays as it
// is (CSI spec, ControllerModifyVolumeRequest.mutable_parameters).
type Changes struct {
	changes []func(*Mutable)
}

// IsNone says that nothing changes.
func (c Changes) IsNone() bool { return len(c.changes) == 0 }

// On is what a volume is to have that has m.
func (c Changes) On(m Mutable) Mutable {
	for _, change := range c.changes {
		change(&m)
	}
	return m
}

// MutableKeys lists the keys that an operator may set in a VolumeAttributesClass.
func MutableKeys() []string { return slices.Sorted(maps.Keys(mutableParsers(nil))) }

// mutableParser reads one value.
type mutableParser func(value string) (change func(*Mutable), err error)

func mutableParsers(parseSize func(string) (int64, error)) map[string]mutableParser {
	rate := func(field func(*Mutable) *uint64) mutableParser {
		return numberParser(field, func(s string) (uint64, error) { return parseRate(s, parseSize) })
	}
	return map[string]mutableParser{
		ParamReadIOPS: numberParser(
			func(m *Mutable) *uint64 { return &m.IO.ReadIOPS }, parseIOPS),
		ParamWriteIOPS: numberParser(
			func(m *Mutable) *uint64 { return &m.IO.WriteIOPS }, parseIOPS),
		ParamReadBytesPerSecond:  rate(func(m *Mutable) *uint64 { return &m.IO.ReadBytesPerSecond }),
		ParamWriteBytesPerSecond: rate(func(m *Mutable) *uint64 { return &m.IO.WriteBytesPerSecond }),
		ParamInodes: numberParser(
			func(m *Mutable) *uint64 { return &m.Inodes }, parseInodes),
		ParamTrashRetention: func(value string) (func(*Mutable), error) {
			r, err := parseRetention(value)
			return func(m *Mutable) { m.TrashRetention = r }, err
		},
	}
}

// numberParser reads a number into a field.
func numberParser(
	field func(*Mutable) *uint64, parse func(string) (uint64, error),
) mutableParser {
	return func(value string) (func(*Mutable), error) {
		var n uint64
		var err error
		if value != MutableDefault {
			n, err = parse(value)
		}
		return func(m *Mutable) { *field(m) = n }, err
	}
}

// ParseMutable reads the parameters of a VolumeAttributesClass; parseSize reads a Kubernetes
// quantity. What sidecars add for people is left out. Errors: ErrInvalid, naming the key.
func ParseMutable(
	params map[string]string, parseSize func(string) (int64, error),
) (Changes, error) {
	parsers := mutableParsers(parseSize)
	var c Changes
	for _, key := range slices.Sorted(maps.Keys(params)) {
		if slices.Contains([]string{ParamPVCName, ParamPVCNamespace, ParamPVName}, key) {
			continue // external-resizer --extra-modify-metadata
		}
		parse, ok := parsers[key]
		if !ok {
			return Changes{}, fmt.Errorf("%w: unknown mutable parameter %q; known: %s", ErrInvalid, key,
				strings.Join(MutableKeys(), ", "))
		}
		change, err := parse(params[key])
		if err != nil {
			return Changes{}, fmt.Errorf("%w: mutable parameter %q is %q: %w, or %q", ErrInvalid, key,
				params[key], err, MutableDefault)
		}
		c.changes = append(c.changes, change)
	}
	return c, nil
}

func parseIOPS(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < minIOPS || n > maxIOPS {
		return 0, fmt.Errorf("want a number from %d to %d", minIOPS, uint64(maxIOPS))
	}
	return n, nil
}

func parseRate(s string, parseSize func(string) (int64, error)) (uint64, error) {
	n, err := parseSize(s)
	if err != nil {
		return 0, err
	}
	if n < minBytesPerSecond || n > MaxCapacityBytes {
		return 0, fmt.Errorf("want bytes per second from %d to %d, such as 10Mi", minBytesPerSecond,
			int64(MaxCapacityBytes))
	}
	return uint64(n), nil
}

func parseRetention(s string) (Retention, error) {
	if s == MutableDefault {
		return "", nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > MaxTrashRetention {
		return "", fmt.Errorf("want a time from 0s to %s, such as 72h", MaxTrashRetention)
	}
	return Retention(d.String()), nil
}

// CheckFits refuses what a volume of that specification cannot have. Errors: ErrInvalid, with the
// remedy.
func (m Mutable) CheckFits(s Spec) error {
	switch {
	case !m.IO.IsNone() && !s.IsImage():
		return fmt.Errorf("%w: the kernel limits the I/O of devices, and this volume is %s of the pool's "+
			"filesystem, which it shares with others: use a StorageClass with %s: %s, or a raw block volume",
			ErrInvalid, s.noun(), ParamBacking, ImageBacking)
	case m.Inodes != 0 && s.IsImage():
		return fmt.Errorf("%w: mutable parameter %q is for directories: the filesystem of an image has its "+
			"own number of inodes, from when it was made", ErrInvalid, ParamInodes)
	case m.Inodes != 0 && s.Type != DirectoryOrCreate:
		return fmt.Errorf("%w: mutable parameter %q is for directories, and this volume is %s",
			ErrInvalid, ParamInodes, s.noun())
	default:
		return nil
	}
}

// noun is what pods see of a volume that is no image.
func (s Spec) noun() string {
	if s.Type == FileOrCreate {
		return "a file"
	}
	return "a directory"
}

// Check refuses values that ParseMutable does not make. Errors: ErrInvalid.
func (m Mutable) Check() error {
	for _, field := range []struct {
		key       string
		n, atMost uint64
	}{
		{ParamReadIOPS, m.IO.ReadIOPS, maxIOPS},
		{ParamWriteIOPS, m.IO.WriteIOPS, maxIOPS},
		{ParamInodes, m.Inodes, maxInodes},
	} {
		if field.n > field.atMost {
			return fmt.Errorf("%w: %s is %d", ErrInvalid, field.key, field.n)
		}
	}
	d := m.TrashRetention.Or(0)
	isWritten := m.TrashRetention == "" || m.TrashRetention == Retention(d.String())
	if !isWritten || d < 0 || d > MaxTrashRetention {
		return fmt.Errorf("%w: %s is %q", ErrInvalid, ParamTrashRetention, m.TrashRetention)
	}
	return nil
}

// Differences lists, for people, the fields in which requested values differ, as Spec.Differences
// does.
func (m Mutable) Differences(requested Mutable) string {
	var text strings.Builder
	for _, field := range []struct{ name, have, requested string }{
		{ParamReadIOPS, decimal(m.IO.ReadIOPS), decimal(requested.IO.ReadIOPS)},
		{ParamWriteIOPS, decimal(m.IO.WriteIOPS), decimal(requested.IO.WriteIOPS)},
		{
			ParamReadBytesPerSecond,
			decimal(m.IO.ReadBytesPerSecond), decimal(requested.IO.ReadBytesPerSecond),
		},
		{
			ParamWriteBytesPerSecond,
			decimal(m.IO.WriteBytesPerSecond), decimal(requested.IO.WriteBytesPerSecond),
		},
		{ParamInodes, decimal(m.Inodes), decimal(requested.Inodes)},
		{ParamTrashRetention, string(m.TrashRetention), string(requested.TrashRetention)},
	} {
		have, want := orDefault(field.have), orDefault(field.requested)
		if have != want {
			fmt.Fprintf(&text, "; %s is %s, requested: %s", field.name, have, want)
		}
	}
	return text.String()
}

func orDefault(value string) string {
	if value == "" || value == "0" {
		return MutableDefault
	}
	return value
}
