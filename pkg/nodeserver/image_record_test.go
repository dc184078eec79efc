package nodeserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/repair"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// imagePath returns the path of the image of the node's volume.
func (n *imageNode) imagePath() string {
	return filepath.Join(n.poolPath(), "volumes", n.id.Dir(), "data")
}

// setRecord changes fields of the volume's record, as a restored backup would, and restarts the
// driver. A nil value removes a field.
func (n *imageNode) setRecord(fields map[string]any) {
	n.t.Helper()
	path := filepath.Join(filepath.Dir(n.imagePath()), "volume.json")
	n.reopen(n.t, func() {
		content, err := os.ReadFile(path)
		fixture.Must(n.t, err)
		record := make(map[string]any)
		fixture.Must(n.t, json.Unmarshal(content, &record))
		maps.Copy(record, fields)
		maps.DeleteFunc(record, func(_ string, value any) bool { return value == nil })
		content, err = json.Marshal(record)
		fixture.Must(n.t, err)
		fixture.Must(n.t, os.WriteFile(path, content, 0o600))
	})
}

// repair runs the repair that the error message advises.
func (n *imageNode) repair() {
	n.t.Helper()
	n.reopen(n.t, func() {
		p, err := repair.OpenPool(n.poolPath())
		fixture.Must(n.t, err)
		plan, err := repair.New(n.t.Context(), p, n.id.String(), repair.Options{})
		fixture.Must(n.t, err)
		fixture.Must(n.t, errors.Join(plan.Write(), plan.Close(), p.Close()))
	})
}

// digest returns a hash of the image, which shows whether the image was changed.
func (n *imageNode) digest() string {
	n.t.Helper()
	f, err := os.Open(n.imagePath())
	fixture.Must(n.t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	fixture.Must(n.t, err)
	return hex.EncodeToString(h.Sum(nil))
}

// wantRefused stages the volume. The call must fail with an error that has all those words, and
// must not change the image.
func (n *imageNode) wantRefused(says ...string) {
	n.t.Helper()
	before := n.digest()
	for range 2 {
		err := n.stage()
		wantCode(n.t, err, codes.Internal)
		for _, word := range append(says, "csi-hostpath repair", n.id.String()) {
			if err != nil && !strings.Contains(err.Error(), word) {
				n.t.Errorf("%v: does not say %q", err, word)
			}
		}
	}
	if n.digest() != before {
		n.t.Error("the image was changed")
	}
}

// The record may have been written by hand, or restored from a backup that is older than the
// filesystem.
func TestFilesystemThatTheRecordDoesNotKnowIsNeverWiped(t *testing.T) {
	for _, allocation := range []volume.Allocation{volume.Sparse, volume.Preallocated} {
		for _, fsType := range volume.FSTypes() {
			t.Run(fmt.Sprintf("%s %s", fsType, allocation), func(t *testing.T) {
				spec := imageSpec(fsType)
				spec.Allocation = allocation
				n := newImageNode(t, spec)
				n.stageAndPublish("a")
				fixture.Must(t, os.WriteFile(n.target("a/file"), []byte("precious"), 0o600))
				n.takeDown("a")
				bytes := n.capacity()
				n.setRecord(map[string]any{"filesystemBytes": nil})
				n.wantRefused("no filesystem", string(fsType), strconv.FormatInt(bytes, 10))
				n.repair()
				n.stageAndPublish("a")
				wantPrecious(t, n.target("a/file"))
				n.takeDown("a")
			})
		}
	}
}

// An operator may have written anything to an image by hand.
func TestImageWithAnythingButZeroesIsNotFormatted(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	f, err := os.OpenFile(n.imagePath(), os.O_RDWR, 0)
	fixture.Must(t, err)
	defer f.Close()
	const at = 5*mib + 17
	_, err = f.WriteAt([]byte{1}, at)
	fixture.Must(t, err)
	n.wantRefused("no known filesystem", strconv.Itoa(at))
	_, err = f.WriteAt([]byte{0}, at)
	fixture.Must(t, err)
	n.stageAndPublish("a") // the image has only zeroes again, so it is formatted
	n.takeDown("a")
}

// The record says that the driver's own mkfs had begun. So the driver formats again after a crash,
// without a person's help.
func TestFormattingThatACrashInterruptedBeginsAgain(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.XFS))
	n.stageAndPublish("a")
	n.takeDown("a")
	n.setRecord(map[string]any{"filesystemBytes": nil, "formatting": true})
	n.stageAndPublish("a")
	fixture.Must(t, os.WriteFile(n.target("a/file"), []byte("precious"), 0o600))
	n.restart(t)
	n.takeDown("a")
	n.stageAndPublish("a")
	wantPrecious(t, n.target("a/file"))
	n.takeDown("a")
}

// The copy of an image that was half formatted is formatted again, too.
func TestCopyOfAnImageWhoseFormattingWasInterruptedIsFormatted(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	n.stageAndPublish("a")
	n.takeDown("a")
	n.setRecord(map[string]any{"filesystemBytes": nil, "formatting": true})
	s, err := n.snapshot()
	fixture.Must(t, err)
	id, err := n.createFrom("restored", volume.FromSnapshot(s.ID), imageSpec(volume.Ext4), 0)
	fixture.Must(t, err)
	other := n.other(id, "staging-restored")
	other.stageAndPublish("b")
	other.takeDown("b")
}

// If the image has another kind of filesystem than the record says, it is neither mounted nor
// formatted.
func TestFilesystemOfAnotherKindThanTheRecordsIsRefusedWithBothNamed(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.XFS))
	n.stageAndPublish("a")
	n.takeDown("a")
	n.setRecord(map[string]any{"spec": map[string]any{
		"type": "DirectoryOrCreate", "mode": 0o755, "uid": 0, "gid": 0,
		"backing": "image", "fsType": "ext4", "allocation": "sparse",
	}})
	n.wantRefused("ext4", "xfs")
	n.repair()
	n.stageAndPublish("a")
	n.takeDown("a")
}

// An image that cannot be read is not taken for an empty one.
func TestImageThatCannotBeLookedAtIsNotFormatted(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	f, err := os.OpenFile(n.imagePath(), os.O_RDWR, 0)
	fixture.Must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte{1}, mib)
	fixture.Must(t, err)
	before := n.digest()
	t.Setenv("PATH", t.TempDir()) // so that blkid is not found
	wantCode(t, n.stage(), codes.Unavailable)
	if n.digest() != before {
		t.Error("the image was changed")
	}
}
