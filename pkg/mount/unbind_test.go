package mount

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestStackedMountsNeverCostData(t *testing.T) {
	base := newBase(t)
	mine, other := newSource(t, fullDir), newSource(t, fullDir)
	at := target(t, base, "target")
	if err := Bind(mine, at, options(t, false)); err != nil {
		t.Fatal(err)
	}
	mountByHand(t, other.Name(), at.String())
	mountByHand(t, mine.Name(), at.String())
	wantMounts(t, at.String(), 3)
	beforeMine, beforeOther := treeState(t, mine.Name()), treeState(t, other.Name())
	if err := Unbind(at); err != nil {
		t.Fatal(err)
	}
	wantMounts(t, at.String(), 0)
	wantAbsent(t, at.String())
	wantTreeState(t, mine.Name(), beforeMine)
	wantTreeState(t, other.Name(), beforeOther)
}

// If somebody mounts in a loop, a call ends all the same, and the next call goes on.
func TestUnbindOfAHugeStackIsDoneInSteps(t *testing.T) {
	base, source := newBase(t), newSource(t, fullDir)
	at := target(t, base, "target")
	put(t, at.String(), emptyDir)
	for range maxStacked + 6 {
		mountByHand(t, source.Name(), at.String())
	}
	if err := Unbind(at); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("%v, want ErrInUse", err)
	}
	wantMounts(t, at.String(), 6)
	if err := Unbind(at); err != nil {
		t.Error(err)
	}
	wantAbsent(t, at.String())
	wantTreeState(t, source.Name(), treeState(t, source.Name()))
}

func TestUnbindOfWhatIsNotThereIsNoError(t *testing.T) {
	base := newBase(t)
	for _, rel := range []string{"target", "pods/uid/volumes/target"} {
		if err := Unbind(target(t, base, rel)); err != nil {
			t.Errorf("%s: %v", rel, err)
		}
	}
	if got := treeState(t, base); len(got) != 1 {
		t.Errorf("there is now %q", got)
	}
}

func TestUnbindRemovesOnlyWhatBindMakes(t *testing.T) {
	for _, tc := range []struct {
		there kind
		want  error
	}{
		{emptyDir, nil},
		{emptyFile, nil},
		{fullDir, volume.ErrInUse},
		{fullFile, volume.ErrInUse},
		{linkToDir, volume.ErrInUse},
		{linkToFile, volume.ErrInUse},
		{danglingTo, volume.ErrInUse},
		{fifo, volume.ErrInUse},
	} {
		t.Run(string(tc.there), func(t *testing.T) {
			base := newBase(t)
			at := target(t, base, "target")
			put(t, at.String(), tc.there)
			before := treeState(t, base)
			if err := Unbind(at); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if tc.want == nil {
				wantAbsent(t, at.String())
				return
			}
			wantTreeState(t, base, before)
		})
	}
}

// If the last component is a link, it could lead to another pod's mount.
func TestUnbindDoesNotUnmountThroughALink(t *testing.T) {
	base, source := newBase(t), newSource(t, fullDir)
	victim, link := target(t, base, "victim"), target(t, base, "link")
	if err := Bind(source, victim, options(t, false)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim.String(), link.String()); err != nil {
		t.Fatal(err)
	}
	if err := Unbind(link); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("%v, want ErrInUse", err)
	}
	wantMounts(t, victim.String(), 1)
}

func TestMountInUseStays(t *testing.T) {
	at, source := target(t, newBase(t), "target"), newSource(t, fullDir)
	if err := Bind(source, at, options(t, false)); err != nil {
		t.Fatal(err)
	}
	user, err := os.Open(filepath.Join(at.String(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Unbind(at); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("%v, want ErrInUse", err)
	}
	wantMounts(t, at.String(), 1)
	user.Close()
	if err := Unbind(at); err != nil {
		t.Error(err)
	}
}

func TestShowsTellsAMountOfTheVolumeFromEverythingElse(t *testing.T) {
	base := newBase(t)
	source, other := newSource(t, fullDir), newSource(t, fullDir)
	for rel, from := range map[string]*os.File{"mine": source, "other": other} {
		if err := Bind(from, target(t, base, rel), options(t, false)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(base, "plain"), emptyDir)
	if err := os.Symlink("mine", filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, rel := range []string{"mine", "other", "plain", "link", "absent", "absent/parent"} {
		ok, err := Shows(target(t, base, rel), source)
		if err != nil {
			t.Errorf("%s: %v", rel, err)
		}
		if ok {
			shown = append(shown, rel)
		}
	}
	if !slices.Equal(shown, []string{"mine"}) {
		t.Errorf("the volume is shown at %q, want mine only", shown)
	}
}
