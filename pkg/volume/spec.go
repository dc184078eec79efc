package volume

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Type is what a volume is made as, in hostPath's own words.
type Type string

// The types of volume that a pool makes.
const (
	DirectoryOrCreate Type = "DirectoryOrCreate"
	FileOrCreate      Type = "FileOrCreate"
)

// Types lists every Type, in the order in which messages name them.
func Types() []Type { return []Type{DirectoryOrCreate, FileOrCreate} }

// The permissions hostPath documents for what it creates; they hold whatever the process's umask.
const (
	defaultDirectoryMode = 0o755
	defaultFileMode      = 0o644
)

// The keys of StorageClass parameters.
const (
	ParamPool = "pool"
	ParamType = "type"
	ParamMode = "mode"
	ParamUID  = "uid"
	ParamGID  = "gid"

	// What external-provisioner adds with --extra-create-metadata: kept in the record for people, never acted on.
	ParamPVCName      = "csi.storage.k8s.io/pvc/name"
	ParamPVCNamespace = "csi.storage.k8s.io/pvc/namespace"
	ParamPVName       = "csi.storage.k8s.io/pv/name"
)

// maxID is the largest user or group ID: (uint32)-1 means "leave it" to chown(2).
const maxID = 1<<32 - 2

// Spec says what a volume is to be. It is a value: two volumes are compatible when their Specs are equal.
type Spec struct {
	Type Type `json:"type"`
	// Mode is the permission bits of the volume's root, with setgid and sticky as in chmod(2).
	Mode uint32 `json:"mode"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
}

// Owner says whose volume it is, for the person who reads the record. All fields may be empty.
type Owner struct {
	Namespace string `json:"namespace,omitempty"`
	Claim     string `json:"claim,omitempty"`
	PV        string `json:"pv,omitempty"`
}

// Parameters is what ParseParameters reads from a StorageClass.
type Parameters struct {
	// Pool is the name of the pool as configured; empty is the default pool.
	Pool  string
	Spec  Spec
	Owner Owner
}

// parameterSetters has one entry for each key that CreateVolume takes.
var parameterSetters = map[string]func(*Parameters, string) error{
	ParamPool:         func(p *Parameters, v string) error { p.Pool = v; return nil },
	ParamType:         func(p *Parameters, v string) (err error) { p.Spec.Type, err = parseType(v); return err },
	ParamMode:         func(p *Parameters, v string) (err error) { p.Spec.Mode, err = parseMode(v); return err },
	ParamUID:          func(p *Parameters, v string) (err error) { p.Spec.UID, err = parseUserID(v); return err },
	ParamGID:          func(p *Parameters, v string) (err error) { p.Spec.GID, err = parseUserID(v); return err },
	ParamPVCName:      func(p *Parameters, v string) error { p.Owner.Claim = v; return nil },
	ParamPVCNamespace: func(p *Parameters, v string) error { p.Owner.Namespace = v; return nil },
	ParamPVName:       func(p *Parameters, v string) error { p.Owner.PV = v; return nil },
}

// ParameterKeys lists the keys that an operator may set in a StorageClass.
func ParameterKeys() []string {
	return []string{ParamGID, ParamMode, ParamPool, ParamType, ParamUID}
}

// ParseParameters reads StorageClass parameters. The type defaults to DirectoryOrCreate, the mode to 0755 for a
// directory and 0644 for a file, the owner to root:root. Errors: ErrInvalid, naming the key.
func ParseParameters(params map[string]string) (Parameters, error) {
	p := Parameters{Spec: Spec{Type: DirectoryOrCreate}}
	for _, key := range slices.Sorted(maps.Keys(params)) {
		set, ok := parameterSetters[key]
		if !ok {
			return Parameters{}, fmt.Errorf("%w: unknown parameter %q; known: %s", ErrInvalid, key, strings.Join(ParameterKeys(), ", "))
		}
		if err := set(&p, params[key]); err != nil {
			return Parameters{}, fmt.Errorf("%w: parameter %q is %q: %w", ErrInvalid, key, params[key], err)
		}
	}
	if _, given := params[ParamMode]; !given {
		p.Spec.Mode = defaultMode(p.Spec.Type)
	}
	if p.Spec.Type == FileOrCreate && p.Spec.Mode&^0o777 != 0 {
		return Parameters{}, fmt.Errorf("%w: parameter %q is %q: a file volume takes permission bits up to 0777",
			ErrInvalid, ParamMode, params[ParamMode])
	}
	return p, nil
}

func defaultMode(t Type) uint32 {
	if t == FileOrCreate {
		return defaultFileMode
	}
	return defaultDirectoryMode
}

func parseType(s string) (Type, error) {
	if t := Type(s); slices.Contains(Types(), t) {
		return t, nil
	}
	return "", fmt.Errorf("want one of %v", Types())
}

// parseMode takes octal digits as chmod(1) does. Setuid is refused: it means nothing on a directory and is a hole on a file.
func parseMode(s string) (uint32, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode > 0o3777 {
		return 0, fmt.Errorf("want octal permission bits from 0000 to 3777, such as 0750")
	}
	return uint32(mode), nil
}

func parseUserID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id > maxID {
		return 0, fmt.Errorf("want a number from 0 to %d", uint32(maxID))
	}
	return uint32(id), nil
}
