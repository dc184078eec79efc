package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/disk"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/sysctl"
)

// state is what a cluster's state file says: enough for another run to end
// everything that this one started, wherever it is killed.
type state struct {
	Options Options `json:"options"`
	// Ready is set last: a state without it is that of an interrupted start.
	Ready        bool            `json:"ready"`
	ControlPlane machine.Machine `json:"controlPlane"`
	Nodes        []nodeState     `json:"nodes"`
	Images       []string        `json:"images"`
}

type nodeState struct {
	Filesystem disk.Filesystem `json:"filesystem"`
	Machine    machine.Machine `json:"machine"`
}

// folder is a cluster's folder.
type folder string

func folderOf(name string) folder { return folder(filepath.Join(stateRoot, name)) }

func (f folder) path(elements ...string) string {
	return filepath.Join(append([]string{string(f)}, elements...)...)
}

func (f folder) stateFile() string   { return f.path("state.json") }
func (f folder) kubeconfig() string  { return f.path("kubeconfig") }
func (f folder) programs() string    { return f.path("bin") }
func (f folder) initProgram() string { return f.path("machineinit") }

func (f folder) layout(machineName string) machine.Layout {
	return machine.Layout(f.path(machineName))
}

// read returns an error that wraps fs.ErrNotExist when there is no cluster.
func (f folder) read() (*state, error) {
	data, err := os.ReadFile(f.stateFile())
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("state file %s: %w", f.stateFile(), err)
	}
	setDefault(&s.Options.KubeletDir, DefaultKubeletDir) // of a cluster that is older than the option
	return &s, nil
}

// write replaces the state file as a whole.
func (f folder) write(s *state) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	next := f.stateFile() + ".next"
	if err := os.WriteFile(next, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, f.stateFile())
}

// lock makes the folder and keeps other runs from changing the cluster until
// unlock is called or this process ends.
func (f folder) lock(ctx context.Context) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(string(f), 0o711); err != nil {
			return nil, err
		}
		file, err := os.Open(string(f))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		locked, err := f.tryLock(file)
		if locked {
			return func() { _ = file.Close() }, nil
		}
		_ = file.Close()
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another run works on the cluster in %s: %w", f, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// tryLock also makes sure that the folder was not removed, by the lock's last
// owner, between its being opened and locked.
func (f folder) tryLock(file *os.File) (bool, error) {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", f, err)
	}
	opened, err := file.Stat()
	if err != nil {
		return false, err
	}
	current, err := os.Stat(string(f))
	return err == nil && os.SameFile(opened, current), nil
}

// settingsFile keeps the kernel settings of before the first cluster: a second one
// finds them changed already.
func (f folder) settingsFile() string {
	return filepath.Join(filepath.Dir(string(f)), "settings.json")
}

// saveSettings remembers the kernel settings, unless another cluster has.
func (f folder) saveSettings() error {
	settings, err := sysctl.Save()
	if err != nil {
		return err
	}
	data, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(f.settingsFile(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

// remove removes the folder; with the last cluster the kernel settings are put
// back, and the parent goes too.
func (f folder) remove() error {
	if err := os.RemoveAll(string(f)); err != nil {
		return err
	}
	parent := filepath.Dir(string(f))
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	if len(entries) == 1 && entries[0].Name() == filepath.Base(f.settingsFile()) {
		if err := f.restoreSettings(); err != nil {
			return err
		}
	}
	if err := os.Remove(parent); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

func (f folder) restoreSettings() error {
	data, err := os.ReadFile(f.settingsFile())
	if err != nil {
		return err
	}
	var settings map[string]string
	if err := json.Unmarshal(data, &settings); err != nil {
		return fmt.Errorf("%s: %w", f.settingsFile(), err)
	}
	return errors.Join(sysctl.Restore(settings), os.Remove(f.settingsFile()))
}
