// Package job is what the two sides of the virtual machine say to each other: a Job goes in with
// the disks, Events come out through a serial port, one in JSON on each line.
package job

import "time"

const (
	// WorkSerial is the serial number of the disk that carries the Job and what it needs. Every
	// other disk's is its name.
	WorkSerial = "work"
	// WorkDir is where that disk is mounted. Its top holds FileName, and a tmp that becomes /tmp.
	WorkDir = "/vm"
	// FileName is the Job's, below WorkDir.
	FileName = "job.json"
	// DisksDir holds the mount point of each formatted disk.
	DisksDir = "/disks"
	// DisksEnv tells the tests about the disks: name=path, separated by commas. The path is a
	// directory, or a block device.
	DisksEnv = "CSI_HOSTPATH_TEST_DISKS"
	// DriverEnv is the path of the driver, when it is among the programs: it cannot be built in the
	// guest.
	DriverEnv = "CSI_HOSTPATH_TEST_DRIVER"
	// SlownessEnv tells the tests how many times slower than usual the machine is (test/fixture).
	SlownessEnv = "CSI_HOSTPATH_TEST_SLOWNESS"
	// PowerCutLine in a test's output says that the power may go now.
	PowerCutLine = "guest: the power may be cut now"
)

// Job is one boot's work.
type Job struct {
	Disks    []Disk    `json:"disks"`
	Programs []Program `json:"programs"`
}

// Disk is a virtio disk.
type Disk struct {
	// Name is its serial number.
	Name string `json:"name"`
	// FS is empty for a disk that is not to be mounted.
	FS        string `json:"fs,omitempty"`
	MountData string `json:"mountData,omitempty"`
}

// Program runs as root, when the one before has ended. Its paths are the guest's.
type Program struct {
	Path string   `json:"path"`
	Dir  string   `json:"dir"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
	// TestTimeout is for the tests of a package: how long they may take on a machine of the usual
	// speed. 0: it is no test.
	TestTimeout time.Duration `json:"testTimeout,omitempty"`
}

// Kind is what an Event tells.
type Kind string

// The kinds of events.
const (
	// Ready comes once, when the disks are mounted.
	Ready Kind = "ready"
	// Output is a part of what a program wrote.
	Output Kind = "output"
	// Exit comes once for each program, after all of its output.
	Exit Kind = "exit"
	// Done comes last: everything has run and is unmounted.
	Done Kind = "done"
	// Fault comes last instead: the machine itself has failed.
	Fault Kind = "fault"
)

// Event is one line from the machine.
type Event struct {
	Kind Kind `json:"kind"`
	// Program is an index in the Job.
	Program int `json:"program,omitempty"`
	// Text is the output or the fault.
	Text string `json:"text,omitempty"`
	// ExitCode is 128 plus the signal for a program that was killed.
	ExitCode int `json:"exitCode,omitempty"`
	// Slowness comes with Ready: how many times slower than usual the machine is, at least 1.
	Slowness float64 `json:"slowness,omitempty"`
}

// Scaled is a time on a machine that is so many times slower.
func Scaled(usual time.Duration, slowness float64) time.Duration {
	return time.Duration(float64(usual) * slowness)
}
