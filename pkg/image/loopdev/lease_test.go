package loopdev

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestFileThatIsOnADeviceIsNeverTakenForOneThatNobodyHasOpen(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			path := filepath.Join(disks.New(t, fstype, 0).Dir, "image")
			if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, unix.O_PATH, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, access := range []Access{ReadWrite, ReadOnly} {
				if !isOpenNowhere(f) {
					t.Error("nobody has it open, and it is in doubt")
				}
				d, err := Attach(f, Options{Access: access})
				if err != nil {
					t.Fatal(err)
				}
				if isOpenNowhere(f) {
					t.Error("a device has it, and it is said to be open nowhere")
				}
				d.Close()
			}
		})
	}
}
