// Command init is the first and only process of the virtual machine: it mounts the disks, runs the
// tests one after the other, and says on a serial port what becomes of them. See package job for
// what goes in and comes out.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

func main() {
	if err := start(); err != nil {
		// There is no way to tell but the kernel's console.
		fmt.Fprintln(os.Stderr, "init:", err)
		halt()
	}
	port, err := openPort()
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		halt()
	}
	if err := work(port); err != nil {
		port.send(job.Event{Kind: job.Fault, Text: err.Error()})
	} else {
		port.send(job.Event{Kind: job.Done})
	}
	halt()
}

// work does the job, and takes the disks out of use.
func work(port *port) error {
	disks, err := findDisks()
	if err != nil {
		return err
	}
	j, err := readJob(disks)
	if err != nil {
		return err
	}
	where, err := mountDisks(j.Disks, disks)
	if err != nil {
		return err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	slow, took, err := slowness()
	if err != nil {
		return err
	}
	port.send(job.Event{
		Kind: job.Ready, Slowness: slow,
		Text: fmt.Sprintf("booted %s with %s; %.1f times slower than usual (%s)",
			unix.ByteSliceToString(name.Release[:]), where, slow, took.Round(time.Millisecond)),
	})
	environment := []string{
		job.DisksEnv + "=" + where,
		fmt.Sprintf("%s=%.2f", job.SlownessEnv, slow),
	}
	for i, program := range j.Programs {
		if program.TestTimeout > 0 {
			program.Args = append(program.Args,
				"-test.timeout="+job.Scaled(program.TestTimeout, slow).String())
		}
		code, err := run(program, environment, func(text string) {
			port.send(job.Event{Kind: job.Output, Program: i, Text: text})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", program.Path, err)
		}
		port.send(job.Event{Kind: job.Exit, Program: i, ExitCode: code})
	}
	return unmountAll()
}

// readJob mounts the work disk and reads the job that is on it.
func readJob(disks map[string]string) (job.Job, error) {
	var j job.Job
	device := disks[job.WorkSerial]
	if err := mount(device, job.WorkDir, "ext4", "noinit_itable"); err != nil {
		return j, err
	}
	if err := unix.Mount(filepath.Join(job.WorkDir, "tmp"), "/tmp", "", unix.MS_BIND, ""); err != nil {
		return j, &os.PathError{Op: "bind", Path: "/tmp", Err: err}
	}
	text, err := os.ReadFile(filepath.Join(job.WorkDir, job.FileName))
	if err != nil {
		return j, err
	}
	return j, errors.Join(json.Unmarshal(text, &j), os.Chmod("/tmp", 0o777|os.ModeSticky))
}

// halt restarts the machine, which QEMU was told to take for its end.
func halt() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		panic(err) // and so does a panic of the first process
	}
}
