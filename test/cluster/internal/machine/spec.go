// Package machine runs a "machine" of the cluster: a control plane or a node,
// as one process tree in mount, PID, network, UTS and IPC namespaces of its own.
// Everything a machine has made but its files is gone when its PID 1 is.
package machine

import (
	"encoding/json"
	"fmt"
	"os"
)

// InitSocket is where PID 1 of a machine serves its units, inside the machine.
const InitSocket = "/run/machine.sock"

// Spec is what PID 1 of a machine is told. All paths are seen from inside, but
// the sources of Binds.
type Spec struct {
	Hostname string `json:"hostname"`
	// CGroup is the group, below every hierarchy's root, that the machine's own
	// programs run in.
	CGroup string `json:"cgroup"`
	// Binds are the machine's private directories, in order.
	Binds []Bind `json:"binds"`
	// Tmpfs are empty at every start.
	Tmpfs []string `json:"tmpfs"`
	// Disk is nil for a machine without one.
	Disk *Disk `json:"disk,omitempty"`
	// ReadOnlyRoot makes the mount of / read-only, and none of the others.
	ReadOnlyRoot bool `json:"readOnlyRoot,omitempty"`
	// Forward makes PID 1 pass connections on the inherited listener on to this
	// address inside the machine; empty for none.
	Forward string `json:"forward,omitempty"`
	Units   []Unit `json:"units"`
}

// Bind puts a directory of the host over one that the machine sees.
type Bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Disk is an image file that is mounted through a loop device.
type Disk struct {
	Image  string `json:"image"`
	Target string `json:"target"`
}

// Unit is a program that PID 1 keeps running.
type Unit struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
	// After is a path that must exist before the program is started.
	After string `json:"after,omitempty"`
	// Log is the file that its output is appended to.
	Log string `json:"log"`
}

// UnitStatus is what PID 1 says of a unit.
type UnitStatus struct {
	Name string `json:"name"`
	// PID is the one inside the machine; 0 while it does not run.
	PID     int  `json:"pid"`
	Starts  int  `json:"starts"`
	Stopped bool `json:"stopped"`
}

// ReadSpec reads a specification file.
func ReadSpec(path string) (Spec, error) {
	var spec Spec
	data, err := os.ReadFile(path)
	if err != nil {
		return spec, err
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return spec, fmt.Errorf("machine specification %s: %w", path, err)
	}
	return spec, nil
}

// WriteSpec writes a specification file that only root can read.
func WriteSpec(path string, spec Spec) error {
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o600)
}
