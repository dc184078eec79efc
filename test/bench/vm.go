package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/report"
	"github.com/csi-hostpath/csi-hostpath/test/vm"
)

const (
	// vmTimeout is how long a run may take in there.
	vmTimeout = 2 * time.Hour
	// vmMemory is in bytes. The tools and their libraries are in it too.
	vmMemory = 2 << 30
	// vmDisk is the size of the pools' disk, in bytes. It is sparse.
	vmDisk = 16 << 30
)

// measureInside runs the same command in the virtual machine, with the pools on a disk of the
// filesystem with project quotas.
func measureInside(ctx context.Context, o options, out io.Writer) error {
	dir, err := os.MkdirTemp(o.parent, "csi-hostpath-bench-")
	if err != nil {
		return err
	}
	return errors.Join(boot(ctx, o, dir, out), os.RemoveAll(dir))
}

func boot(ctx context.Context, o options, dir string, out io.Writer) error {
	logf := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	machine, err := vm.Prepare(ctx, vm.Config{
		Programs: []string{"./test/bench", "./cmd/csi-hostpath"},
		Tools:    []string{"fio"},
		// What the disk has to initialise it does when it is made, or never: not while we measure.
		Disks:  []vm.Disk{{FS: o.fs, ProjectQuota: true, Size: vmDisk, MountData: vmMountData[o.fs]}},
		Memory: vmMemory,
	}, dir, logf)
	if err != nil {
		return err
	}
	results, err := machine.Boot(ctx, vm.Boot{
		Command: slices.Concat([]string{"bench"}, o.args,
			[]string{"--vm=false", "--fs=" + onHost, "--dir=/disks/" + o.fs, "--fleet="}),
		Env:     []string{report.CommitEnv + "=" + report.Commit()},
		Timeout: vmTimeout,
	}, logf)
	if err == nil && (len(results) != 1 || results[0].ExitCode != 0) {
		err = errors.New("the bench in the virtual machine has failed")
	}
	return err
}

// vmMountData keeps ext4 from writing its tables in the background.
var vmMountData = map[string]string{"ext4": "noinit_itable"}
