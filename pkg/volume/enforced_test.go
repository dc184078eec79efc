package volume

import (
	"errors"
	"maps"
	"strings"
	"testing"
)

type testPool struct{ enforces bool }

func (p testPool) Enforces() bool { return p.enforces }

// enforced is the specification of a class of backing: enforced.
func enforced(t *testing.T, more map[string]string) Spec {
	t.Helper()
	params := map[string]string{ParamBacking: string(EnforcedBacking)}
	maps.Copy(params, more)
	p, err := ParseParameters(params)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := p.SpecFor(AccessType{})
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestEnforcedIsADirectoryWhereThePoolEnforcesAndAnImageElsewhere(t *testing.T) {
	dir := Spec{Type: DirectoryOrCreate, Mode: 0o755, EnforcedSize: true}
	image := dir
	image.Backing, image.FSType, image.Allocation = ImageBacking, Ext4, Sparse
	full, few, file, fileImage := image, dir, dir, image
	full.Allocation, few.Inodes = Preallocated, 100
	file.Type, file.Mode = FileOrCreate, 0o644
	fileImage.Type, fileImage.Mode = FileOrCreate, 0o644
	for _, tt := range []struct {
		name             string
		more             map[string]string
		there, elsewhere Spec
	}{
		{"directory", nil, dir, image},
		{"file", map[string]string{"type": "FileOrCreate"}, file, fileImage},
		{"preallocated", map[string]string{"allocation": "preallocated"}, dir, full},
		{"with a number of inodes", map[string]string{"inodes": "100"}, few, few},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := enforced(t, tt.more)
			if err := spec.Check(); !errors.Is(err, ErrInvalid) {
				t.Errorf("a record may have %+v, %v: nothing is decided", spec, err)
			}
			for poolEnforces, want := range map[bool]Spec{true: tt.there, false: tt.elsewhere} {
				got := spec.DecideFor(testPool{poolEnforces})
				if got != want || got.Check() != nil {
					t.Errorf("where the pool enforces (%t): %+v, %v, want %+v", poolEnforces, got, got.Check(),
						want)
				}
				if again := got.DecideFor(testPool{!poolEnforces}); again != got {
					t.Errorf("%+v becomes %+v", got, again)
				}
				if as := spec.DecideAs(got); as != got {
					t.Errorf("as %+v it is %+v", got, as)
				}
			}
		})
	}
}

func TestEnforcedFollowsItsSource(t *testing.T) {
	xfs := Spec{Type: DirectoryOrCreate, Backing: ImageBacking, FSType: XFS, Allocation: Preallocated}
	block := Spec{Type: DirectoryOrCreate, Backing: ImageBacking, Allocation: Sparse}
	spec := enforced(t, nil)
	if got := spec.DecideAs(xfs); got.FSType != XFS || got.Allocation != Sparse || !got.EnforcedSize {
		t.Errorf("as %+v it is %+v, want its filesystem, and the allocation of the class", xfs, got)
	}
	if got := spec.DecideAs(block); got.IsBlock() || !got.IsImage() {
		t.Errorf("as a raw block volume it is %+v, want an image with a filesystem", got)
	}
	if got := xfs.DecideAs(Spec{Type: DirectoryOrCreate}); got != xfs {
		t.Errorf("a class that leaves nothing open became %+v", got)
	}
}

// A volume that was made for a class that asks for less, or for more, is not the answer.
func TestEnforcedIsAnsweredByWhatWasMadeForIt(t *testing.T) {
	name, err := ParseName("v")
	if err != nil {
		t.Fatal(err)
	}
	spec := enforced(t, nil)
	req := CreateRequest{Name: name, Spec: spec}
	for _, poolEnforces := range []bool{true, false} {
		made := Volume{Name: name, Spec: spec.DecideFor(testPool{poolEnforces}), CapacityBytes: 1 << 30}
		if err := req.CheckAnsweredBy(made); err != nil {
			t.Errorf("%+v: %v", made.Spec, err)
		}
		other := made
		other.Spec.EnforcedSize = false
		err := req.CheckAnsweredBy(other)
		if !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), "requested: enforced") {
			t.Errorf("%+v: %v, want ErrIncompatible saying what was requested", other.Spec, err)
		}
		plain := CreateRequest{Name: name, Spec: other.Spec}
		err = plain.CheckAnsweredBy(made)
		if !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), "backing is enforced") {
			t.Errorf("%+v: %v, want ErrIncompatible saying what it is", made.Spec, err)
		}
	}
}
