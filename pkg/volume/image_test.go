package volume

import (
	"errors"
	"testing"
)

func TestClassAndAccessBecomeASpec(t *testing.T) {
	dir := Spec{Type: DirectoryOrCreate, Mode: 0o755}
	image := Spec{
		Type:       DirectoryOrCreate,
		Mode:       0o755,
		Backing:    ImageBacking,
		FSType:     Ext4,
		Allocation: Sparse,
	}
	block := Spec{Type: DirectoryOrCreate, Backing: ImageBacking, Allocation: Sparse}
	xfs, full := image, image
	xfs.FSType, full.Allocation = XFS, Preallocated
	fullBlock := block
	fullBlock.Allocation = Preallocated
	tests := []struct {
		name   string
		params map[string]string
		access AccessType
		want   Spec // zero: ErrInvalid
	}{
		{name: "nothing said", want: dir},
		{name: "auto", params: map[string]string{"backing": "auto"}, want: dir},
		{name: "directory", params: map[string]string{"backing": "directory"}, want: dir},
		{name: "image", params: map[string]string{"backing": "image"}, want: image},
		{name: "fsType", access: AccessType{FSType: XFS}, want: xfs},
		{
			name:   "auto and fsType",
			params: map[string]string{"backing": "auto"},
			access: AccessType{FSType: XFS},
			want:   xfs,
		},
		{
			name:   "image and fsType",
			params: map[string]string{"backing": "image"},
			access: AccessType{FSType: XFS},
			want:   xfs,
		},
		{
			name:   "preallocated",
			params: map[string]string{"backing": "image", "allocation": "preallocated"},
			want:   full,
		},
		{
			name:   "sparse",
			params: map[string]string{"backing": "image", "allocation": "sparse"},
			want:   image,
		},
		{
			name:   "directory and fsType",
			params: map[string]string{"backing": "directory"},
			access: AccessType{FSType: Ext4},
		},
		{name: "allocation of a directory", params: map[string]string{"allocation": "sparse"}},
		{name: "block", access: AccessType{Block: true}, want: block},
		{
			name:   "block of an image class",
			params: map[string]string{"backing": "image"},
			access: AccessType{Block: true},
			want:   block,
		},
		{
			name:   "block of a class with a mode",
			params: map[string]string{"mode": "0700", "uid": "7"},
			access: AccessType{Block: true},
			want:   block,
		},
		{
			name:   "preallocated block",
			params: map[string]string{"allocation": "preallocated"},
			access: AccessType{Block: true},
			want:   fullBlock,
		},
		{
			name:   "block of a directory",
			params: map[string]string{"backing": "directory"},
			access: AccessType{Block: true},
		},
		{
			name:   "block of a file",
			params: map[string]string{"type": "FileOrCreate"},
			access: AccessType{Block: true},
		},
		{
			name:   "block of a path",
			params: map[string]string{"path": "/data", "type": "Directory"},
			access: AccessType{Block: true},
		},
		{
			name:   "image with a number of inodes",
			params: map[string]string{"backing": "image", "inodes": "100"},
		},
		{
			name:   "fsType with a number of inodes",
			params: map[string]string{"inodes": "100"},
			access: AccessType{FSType: XFS},
		},
		{
			name:   "enforced and fsType",
			params: map[string]string{"backing": "enforced"},
			access: AccessType{FSType: Ext4},
		},
		{
			name:   "block of an enforced class",
			params: map[string]string{"backing": "enforced", "allocation": "preallocated"},
			access: AccessType{Block: true},
			want:   fullBlock,
		},
		{
			name:   "fsType of a path",
			params: map[string]string{"path": "/data", "type": "Directory"},
			access: AccessType{FSType: XFS},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParseParameters(tt.params)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.SpecFor(tt.access)
			if got != tt.want || errors.Is(err, ErrInvalid) != (tt.want == Spec{}) {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
			if err != nil {
				return
			}
			if err := got.Check(); err != nil {
				t.Errorf("its own check refuses it: %v", err)
			}
			if err := got.CheckAccess(tt.access); err != nil {
				t.Errorf("it cannot be seen as what was asked for: %v", err)
			}
		})
	}
}

func TestWrongBackingAndAllocationAreRefused(t *testing.T) {
	for _, params := range []map[string]string{
		{"backing": "disk"},
		{"backing": ""},
		{"backing": "image", "allocation": "thick"},
		{"backing": "image", "allocation": ""},
		{"path": "/data", "type": "Directory", "backing": "image"},
		{"path": "/data", "type": "Directory", "backing": "auto"},
		{"path": "/data", "type": "Directory", "backing": "enforced"},
	} {
		if p, err := ParseParameters(params); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %+v, %v, want ErrInvalid", params, p, err)
		}
	}
}

func TestInlineVolumeIsNoImage(t *testing.T) {
	for _, attributes := range []map[string]string{
		{"backing": "image"}, {"backing": "enforced"}, {"allocation": "sparse"},
	} {
		attributes[AttrEphemeral] = "true"
		if _, err := ParseAttributes(attributes, nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v, want ErrInvalid", attributes, err)
		}
	}
}

func TestVolumeIsNeverShownAsSomethingElse(t *testing.T) {
	dir := Spec{Type: DirectoryOrCreate}
	xfs := Spec{Type: DirectoryOrCreate, Backing: ImageBacking, FSType: XFS}
	block := Spec{Type: DirectoryOrCreate, Backing: ImageBacking}
	tests := []struct {
		spec   Spec
		access AccessType
		ok     bool
	}{
		{dir, AccessType{}, true},
		{dir, AccessType{FSType: XFS}, false},
		{dir, AccessType{Block: true}, false},
		{xfs, AccessType{}, true},
		{xfs, AccessType{FSType: XFS}, true},
		{xfs, AccessType{FSType: Ext4}, false},
		{xfs, AccessType{Block: true}, false},
		{block, AccessType{Block: true}, true},
		{block, AccessType{}, false},
		{block, AccessType{FSType: XFS}, false},
	}
	for _, tt := range tests {
		if err := tt.spec.CheckAccess(tt.access); (err == nil) != tt.ok ||
			err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v as %s: %v", tt.spec, tt.access, err)
		}
	}
}

func TestSpecThatNoClassMakesIsRefused(t *testing.T) {
	for _, s := range []Spec{
		{},
		{Type: Socket},
		{Type: DirectoryOrCreate, Backing: "tape"},
		{Type: DirectoryOrCreate, FSType: XFS},
		{Type: DirectoryOrCreate, Allocation: Sparse},
		{Type: DirectoryOrCreate, Backing: ImageBacking, FSType: XFS},
		{Type: DirectoryOrCreate, Backing: ImageBacking, FSType: "ntfs", Allocation: Sparse},
		{Type: DirectoryOrCreate, Backing: ImageBacking, FSType: XFS, Allocation: "thick"},
		{Type: FileOrCreate, Backing: ImageBacking, Allocation: Sparse},
		{Type: DirectoryOrCreate, Backing: EnforcedBacking, EnforcedSize: true},
		{Type: DirectoryOrCreate, Backing: ImageBacking, Allocation: Sparse, EnforcedSize: true},
	} {
		if err := s.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", s, err)
		}
	}
}

func TestImageIsNeverSmallerThanAskedForNorThanItsFilesystem(t *testing.T) {
	ext4 := Spec{Type: DirectoryOrCreate, Backing: ImageBacking, FSType: Ext4}
	block := Spec{Type: DirectoryOrCreate, Backing: ImageBacking}
	tests := []struct {
		spec Spec
		size SizeRange
		want int64 // 0: ErrOutOfRange
	}{
		{Spec{Type: DirectoryOrCreate}, SizeRange{Required: 1}, 1},
		{block, SizeRange{Required: 1}, 4096},
		{block, SizeRange{Required: 4096}, 4096},
		{block, SizeRange{Required: 4097, Limit: 8192}, 8192},
		{block, SizeRange{Required: 4097, Limit: 8191}, 0},
		{block, SizeRange{}, DefaultCapacityBytes},
		{ext4, SizeRange{Required: 1}, 16 << 20},
		{ext4, SizeRange{Required: 1, Limit: 1 << 20}, 0},
		{ext4, SizeRange{Required: 1 << 30, Limit: 1 << 30}, 1 << 30},
		{ext4, SizeRange{Required: MaxCapacityBytes}, MaxCapacityBytes},
	}
	for _, tt := range tests {
		got, err := tt.spec.Size(tt.size)
		if got != tt.want || errors.Is(err, ErrOutOfRange) != (tt.want == 0) {
			t.Errorf("%+v of %s: %d, %v, want %d", tt.spec, tt.size, got, err, tt.want)
		}
	}
}

func TestLargestVolumeFitsIntoItsRoom(t *testing.T) {
	image := Spec{Type: DirectoryOrCreate, Backing: ImageBacking, FSType: XFS, Allocation: Sparse}
	block := Spec{Type: DirectoryOrCreate, Backing: ImageBacking, Allocation: Sparse}
	least := XFS.MinimumBytes()
	tests := []struct {
		name       string
		spec       Spec
		room, want int64
	}{
		{name: "directory", spec: Spec{Type: DirectoryOrCreate}, room: 4097, want: 4097},
		{name: "no room"},
		{name: "image", spec: image, room: least + 4095, want: least},
		{name: "image that does not fit", spec: image, room: least - 1},
		{name: "block", spec: block, room: 8191, want: 4096},
		{name: "block that does not fit", spec: block, room: 4095},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.spec.Largest(tt.room); got != tt.want {
				t.Errorf("in %d bytes there is room for one of %d, want %d", tt.room, got, tt.want)
			}
		})
	}
}
