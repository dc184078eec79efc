package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

// consoleTail is how much of the kernel's console a failure shows, in bytes.
const consoleTail = 4 << 10

// arguments describe the machine. Events have a serial port of their own: what the kernel says does
// not get in between, and a virtio port is much faster than an emulated UART.
func (m *Machine) arguments(work, console string) []string {
	memory := m.config.Memory
	if memory == 0 {
		memory = defaultMemory
	}
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", fmt.Sprintf("%dM", memory>>20),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel.image, "-initrd", m.initrd,
		// A panic restarts the machine at once, and -no-reboot makes that its end. Nobody attacks
		// this kernel from inside. Its cryptography need not test itself: emulated, those tests
		// take a second, and one was seen to loop for ever.
		// Beside a load the emulated timer misses ticks: without no_timer_check the kernel panics then.
		"-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off cryptomgr.notests " +
			"no_timer_check",
		"-serial", "file:" + console,
		"-chardev", "file,id=events,path=/proc/self/fd/1",
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=events",
	}
	args = append(args, driveArguments(job.WorkSerial, work)...)
	for _, d := range m.disks {
		args = append(args, driveArguments(d.Name, d.image)...)
	}
	return args
}

// driveArguments use cache=unsafe: what QEMU has written outlives QEMU in any case, and only QEMU
// is killed.
func driveArguments(serial, image string) []string {
	return []string{
		"-drive", "if=none,format=raw,cache=unsafe,discard=unmap,id=" + serial + ",file=" + image,
		"-device", "virtio-blk-pci,drive=" + serial + ",serial=" + serial,
	}
}

// runQEMU returns when the machine has ended, whichever way, and no process is left of it.
func runQEMU(ctx context.Context, args []string, w *watch) error {
	program, err := lookPath("qemu-system-x86_64")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	// A test that is killed takes its machine with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	followErr := w.follow(events, cmd.Process.Kill)
	if followErr != nil {
		followErr = errors.Join(followErr, cmd.Process.Kill())
	}
	if err := cmd.Wait(); err != nil && !w.cut() {
		return errors.Join(followErr, fmt.Errorf("qemu: %w: %s", err, said.Bytes()))
	}
	return errors.Join(followErr, w.verdict())
}

// tail is the end of a file, or why there is none.
func tail(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > consoleTail {
		if _, err := f.Seek(-consoleTail, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
