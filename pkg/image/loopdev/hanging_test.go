package loopdev

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/fuse"
)

func TestDeviceIsFoundBesideOneWhoseFileDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	fs := fuse.Mount(t, dir)
	defer fs.Die()
	foreign, err := os.OpenFile(filepath.Join(dir, fuse.File), os.O_RDONLY, 0)
	fixture.Must(t, err)
	device, err := Attach(foreign, Options{Access: ReadOnly})
	fixture.Must(t, err)
	defer device.Close()
	own, err := os.OpenFile(filepath.Join(t.TempDir(), "own"), os.O_RDWR|os.O_CREATE, 0o600)
	fixture.Must(t, err) // it is open, so that Find has to look at the devices
	defer own.Close()
	fs.Hang()
	if _, err := Find(own, ReadWrite); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is on no device: %v", err)
	}
	fs.WantAlive(t)
	fs.Die() // before the device goes
}
