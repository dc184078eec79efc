package volume

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Type is what a volume is, in hostPath's own words.
type Type string

// A pool makes volumes of the first two types; a reference to a path of the host may be of any.
const (
	DirectoryOrCreate Type = "DirectoryOrCreate"
	FileOrCreate      Type = "FileOrCreate"
	Directory         Type = "Directory"
	File              Type = "File"
	Socket            Type = "Socket"
	CharDevice        Type = "CharDevice"
	BlockDevice       Type = "BlockDevice"
)

// ManagedTypes lists the types that a pool makes, in the order in which messages name them.
func ManagedTypes() []Type { return []Type{DirectoryOrCreate, FileOrCreate} }

// Types lists every type, in the order in which messages name them.
func Types() []Type {
	return []Type{DirectoryOrCreate, FileOrCreate, Directory, File, Socket, CharDevice, BlockDevice}
}

// Creates says whether something is made where nothing is.
func (t Type) Creates() bool { return t == DirectoryOrCreate || t == FileOrCreate }

// IsDevice says whether the type is a device node.
func (t Type) IsDevice() bool { return t == CharDevice || t == BlockDevice }

// The permissions hostPath documents for what it creates; they hold whatever the process's umask.
const (
	defaultDirectoryMode = 0o755
	defaultFileMode      = 0o644
)

// The keys of StorageClass parameters and volume attributes.
const (
	ParamPool = "pool"
	ParamType = "type"
	ParamPath = "path"
	ParamMode = "mode"
	ParamUID  = "uid"
	ParamGID  = "gid"
	// ParamBacking chooses between a directory or file of the pool's filesystem and an image, or
	// has the pool choose; ParamAllocation is for images.
	ParamBacking    = "backing"
	ParamAllocation = "allocation"
	// ParamInodes limits how many files and directories a volume may have.
	ParamInodes = "inodes"
	// ParamSize and ParamMedium are for inline volumes only: other volumes get their size from the
	// claim.
	ParamSize   = "size"
	ParamMedium = "medium"

	// What external-provisioner adds with --extra-create-metadata. The namespace is what the rules
	// for host paths go by; the rest is kept in the record for people.
	ParamPVCName      = "csi.storage.k8s.io/pvc/name"
	ParamPVCNamespace = "csi.storage.k8s.io/pvc/namespace"
	ParamPVName       = "csi.storage.k8s.io/pv/name"
)

// maxID is the largest user or group ID: (uint32)-1 means "leave it" to chown(2).
const maxID = 1<<32 - 2

// Spec says what a volume is to be. It is a value: two volumes are compatible when their Specs are
// equal.
type Spec struct {
	Type Type `json:"type"`
	// Mode is the permission bits of the volume's root, with setgid and sticky as in chmod(2).
	Mode uint32 `json:"mode"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Backing, FSType and Allocation say what holds the data: see IsImage and IsBlock.
	Backing    Backing    `json:"backing,omitempty"`
	FSType     FSType     `json:"fsType,omitempty"`
	Allocation Allocation `json:"allocation,omitempty"`
	// Inodes is how many files and directories a directory volume may hold at most, its own root
	// among them; 0 is any number.
	Inodes uint64 `json:"inodes,omitempty"`
	// EnforcedSize: the class asked for a size that holds (EnforcedBacking). What that was in the
	// pool when the volume was made is in Backing.
	EnforcedSize bool `json:"enforcedSize,omitempty"`
}

// Differences lists, for people, the fields in which a requested specification differs: "; mode is
// 0755, requested: 0700". It is empty if none differs.
func (s Spec) Differences(requested Spec) string {
	var text strings.Builder
	for _, field := range []struct{ name, have, requested string }{
		{ParamType, string(s.Type), string(requested.Type)},
		{ParamMode, fmt.Sprintf("%#o", s.Mode), fmt.Sprintf("%#o", requested.Mode)},
		{ParamUID, decimal(uint64(s.UID)), decimal(uint64(requested.UID))},
		{ParamGID, decimal(uint64(s.GID)), decimal(uint64(requested.GID))},
		{ParamBacking, s.backing(), requested.backing()},
		{"fsType", string(s.FSType), string(requested.FSType)},
		{ParamAllocation, string(s.Allocation), string(requested.Allocation)},
		{ParamInodes, decimal(s.Inodes), decimal(requested.Inodes)},
	} {
		if field.have != field.requested {
			fmt.Fprintf(&text, "; %s is %s, requested: %s", field.name, cmp.Or(field.have, "none"),
				cmp.Or(field.requested, "none"))
		}
	}
	return text.String()
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// Owner says whose volume it is, for the person who reads the record. All fields may be empty.
type Owner struct {
	Namespace string `json:"namespace,omitempty"`
	Claim     string `json:"claim,omitempty"`
	PV        string `json:"pv,omitempty"`
	// Pod and PodUID name the pod of an inline volume; it lives as long as that.
	Pod    string `json:"pod,omitempty"`
	PodUID string `json:"podUid,omitempty"`
	// Git is the URL of the repository whose content the volume has, for whichever pods of the node
	// ask for it. A driver that does not know it takes the volume for one of a claim, and keeps it.
	Git string `json:"git,omitempty"`
}

// Parameters is what ParseParameters reads from a StorageClass.
type Parameters struct {
	// Pool is the name of the pool as configured; empty is the default pool.
	Pool string
	// Path is set for a reference to a path of the host, which no pool holds: absolute and clean.
	Path string
	// Git is set for content of git, which all pods of a node that ask for it share.
	Git GitSource
	// Spec is that of a volume in a directory; SpecFor has the one of the volume that is asked for.
	Spec  Spec
	Owner Owner

	backing    backing
	allocation Allocation
}

// setter reads one value into the parameters.
type setter func(*Parameters, string) error

// classSetters has one entry for each key that CreateVolume takes.
func classSetters() map[string]setter {
	return map[string]setter{
		ParamPool:         func(p *Parameters, v string) error { p.Pool = v; return nil },
		ParamPath:         func(p *Parameters, v string) (err error) { p.Path, err = parsePath(v); return err },
		ParamType:         func(p *Parameters, v string) (err error) { p.Spec.Type, err = parseType(v); return err },
		ParamMode:         func(p *Parameters, v string) (err error) { p.Spec.Mode, err = parseMode(v); return err },
		ParamUID:          func(p *Parameters, v string) (err error) { p.Spec.UID, err = parseUserID(v); return err },
		ParamGID:          func(p *Parameters, v string) (err error) { p.Spec.GID, err = parseUserID(v); return err },
		ParamBacking:      func(p *Parameters, v string) (err error) { p.backing, err = parseBacking(v); return err },
		ParamAllocation:   func(p *Parameters, v string) (err error) { p.allocation, err = parseAllocation(v); return err },
		ParamInodes:       func(p *Parameters, v string) (err error) { p.Spec.Inodes, err = parseInodes(v); return err },
		ParamPVCName:      func(p *Parameters, v string) error { p.Owner.Claim = v; return nil },
		ParamPVCNamespace: func(p *Parameters, v string) error { p.Owner.Namespace = v; return nil },
		ParamPVName:       func(p *Parameters, v string) error { p.Owner.PV = v; return nil },
	}
}

// ParameterKeys lists the keys that an operator may set in a StorageClass.
func ParameterKeys() []string {
	return []string{
		ParamAllocation,
		ParamBacking,
		ParamGID,
		ParamInodes,
		ParamMode,
		ParamPath,
		ParamPool,
		ParamType,
		ParamUID,
	}
}

// ParseParameters reads StorageClass parameters. The type defaults to DirectoryOrCreate, but a path
// of the host needs its type said; the mode to 0755 for a directory and 0644 for a file, the owner
// to root:root. Errors: ErrInvalid, naming the key.
func ParseParameters(params map[string]string) (Parameters, error) {
	p := Parameters{Spec: Spec{Type: DirectoryOrCreate}}
	if hasSource(params) {
		return p, p.setGit(params, nil)
	}
	if err := p.set(classSetters(), params, ParameterKeys()); err != nil {
		return Parameters{}, err
	}
	if err := p.check(params); err != nil {
		return Parameters{}, err
	}
	if _, given := params[ParamMode]; !given {
		p.Spec.Mode = defaultMode(p.Spec.Type)
	}
	return p, nil
}

func (p *Parameters) set(
	setters map[string]setter, params map[string]string, known []string,
) error {
	for _, key := range slices.Sorted(maps.Keys(params)) {
		set, ok := setters[key]
		if !ok {
			return fmt.Errorf("%w: unknown parameter %q; known: %s", ErrInvalid, key,
				strings.Join(known, ", "))
		}
		if err := set(p, params[key]); err != nil {
			value := params[key]
			if key == ParamURL {
				value = WithoutPassword(value)
			}
			return fmt.Errorf("%w: parameter %q is %q: %w", ErrInvalid, key, value, err)
		}
	}
	return nil
}

// check refuses combinations that say two things, or nothing.
func (p *Parameters) check(params map[string]string) error {
	if p.Path != "" {
		if err := p.checkReference(params); err != nil {
			return err
		}
	}
	switch {
	case p.Path == "" && !slices.Contains(ManagedTypes(), p.Spec.Type):
		return fmt.Errorf(
			"%w: parameter %q is %q, which is an existing path of the host: name it with %q, or use one of %v",
			ErrInvalid,
			ParamType,
			p.Spec.Type,
			ParamPath,
			ManagedTypes(),
		)
	case p.Spec.Inodes != 0 && (p.Path != "" || p.Spec.Type != DirectoryOrCreate):
		return fmt.Errorf(
			"%w: parameter %q is %q: only a directory that a pool makes is limited to a number of files",
			ErrInvalid,
			ParamInodes,
			params[ParamInodes],
		)
	case p.Spec.Type == FileOrCreate && p.Spec.Mode&^0o777 != 0:
		return fmt.Errorf("%w: parameter %q is %q: a file volume takes permission bits up to 0777",
			ErrInvalid, ParamMode, params[ParamMode])
	default:
		return nil
	}
}

// checkReference is check for what only a path of the host can contradict.
func (p *Parameters) checkReference(params map[string]string) error {
	switch _, typeGiven := params[ParamType]; {
	case !typeGiven:
		return fmt.Errorf("%w: parameter %q needs %q beside it, one of %v", ErrInvalid, ParamPath,
			ParamType, Types())
	case p.Pool != "":
		return fmt.Errorf("%w: parameter %q is %q: a path of the host is in no %q", ErrInvalid, ParamPath,
			p.Path, ParamPool)
	case p.backing != "" || p.allocation != "":
		return fmt.Errorf("%w: parameter %q is %q: a path of the host has no %q and no %q",
			ErrInvalid, ParamPath, p.Path, ParamBacking, ParamAllocation)
	case p.Spec.Type.Creates():
		return nil
	}
	for _, key := range []string{ParamMode, ParamUID, ParamGID} {
		if _, given := params[key]; given {
			return fmt.Errorf("%w: parameter %q is for what the driver makes, and type %q makes nothing",
				ErrInvalid, key, p.Spec.Type)
		}
	}
	return nil
}

func defaultMode(t Type) uint32 {
	switch t {
	case DirectoryOrCreate:
		return defaultDirectoryMode
	case FileOrCreate:
		return defaultFileMode
	default:
		return 0 // what exists keeps its mode
	}
}

func parseType(s string) (Type, error) {
	if t := Type(s); slices.Contains(Types(), t) {
		return t, nil
	}
	return "", fmt.Errorf("want one of %v", Types())
}

// parsePath takes what can only mean one place: nothing is cleaned away that a rule could have been
// meant for.
func parsePath(s string) (string, error) {
	if strings.ContainsRune(s, 0) || !strings.HasPrefix(s, "/") || len(s) == 1 ||
		len(s) > maxPathBytes {
		return "", fmt.Errorf("want an absolute path below / of at most %d bytes, without NUL",
			maxPathBytes)
	}
	for part := range strings.SplitSeq(s[1:], "/") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf(
				"want a path without \".\", \"..\", repeated slashes or a slash at its end",
			)
		}
	}
	return s, nil
}

// maxPathBytes is PATH_MAX without the final NUL.
const maxPathBytes = 4095

// parseMode takes octal digits as chmod(1) does. Setuid is refused: it means nothing on a directory
// and is a hole on a file.
func parseMode(s string) (uint32, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode > 0o3777 {
		return 0, fmt.Errorf("want octal permission bits from 0000 to 3777, such as 0750")
	}
	return uint32(mode), nil
}

// parseInodes takes no limit in which nothing could be made: the root of the volume is an inode,
// too.
func parseInodes(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < minInodes || n > maxInodes {
		return 0, fmt.Errorf("want a number from %d to %d", minInodes, uint64(maxInodes))
	}
	return n, nil
}

// maxInodes is what ext4 can have at most; XFS has as many in a disk of 2 TiB.
const (
	minInodes = 2
	maxInodes = 1<<32 - 1
)

func parseUserID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id > maxID {
		return 0, fmt.Errorf("want a number from 0 to %d", uint32(maxID))
	}
	return uint32(id), nil
}
