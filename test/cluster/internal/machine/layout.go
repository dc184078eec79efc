package machine

import (
	"os"
	"path/filepath"
)

// Where a machine finds what the cluster gave it.
const (
	Home     = "/var/lib/machine"
	Programs = Home + "/bin"
	PKI      = Home + "/pki"
	Logs     = "/var/log/machine"
)

// privateDirectories are the machine's own, over the host's of the same name.
// /srv and /mnt are what hostPath volumes are usually tried with.
var privateDirectories = []string{"/var/lib", "/var/log", "/srv", "/mnt", "/tmp"}

// Layout is the host's folder of one machine. It is the machine's system disk:
// it survives a reboot.
type Layout string

// Create makes the private directories.
func (l Layout) Create() error {
	for _, directory := range append([]string{Programs, PKI, Logs}, privateDirectories...) {
		if err := os.MkdirAll(l.Host(directory), 0o755); err != nil {
			return err
		}
	}
	return os.Chmod(l.Host("/tmp"), 0o777|os.ModeSticky)
}

// Host returns where a path of the machine's private directories is on the host.
func (l Layout) Host(inside string) string { return filepath.Join(string(l), "root", inside) }

// SpecFile is where the specification is kept; the machine does not see it.
func (l Layout) SpecFile() string { return filepath.Join(string(l), "spec.json") }

// LogFile is where PID 1 writes.
func (l Layout) LogFile() string { return l.Host(Logs + "/init.log") }

// Binds returns the machine's mounts; programs is the host's folder of programs.
func (l Layout) Binds(programs string) []Bind {
	var binds []Bind
	for _, directory := range privateDirectories {
		if info, err := os.Stat(directory); err == nil && info.IsDir() {
			binds = append(binds, Bind{Source: l.Host(directory), Target: directory})
		}
	}
	return append(binds, Bind{Source: programs, Target: Programs, ReadOnly: true})
}
